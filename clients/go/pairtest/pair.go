// Package pairtest starts a real Flowless and a real sidecar for tests. It needs the repository that this module is
// part of, with its .venv: apps that use the client have no use for it.
package pairtest

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"trustlayer/clients/go/trustlayerv1"
)

// stopTime is how long the pair has to end by itself.
const stopTime = time.Minute

// Pair is what `python -m tools.pair` runs, and what it said of it.
type Pair struct {
	// Socket is the path of the sidecar's socket.
	Socket string `json:"socket"`
	// SessionID is that of a session of the first user.
	SessionID string `json:"session_id"`
	// Login is the first user's.
	Login string `json:"login"`
	// OtherLogin is that of a second user, who has no roles.
	OtherLogin string `json:"other_login"`
	// Password is both users'.
	Password string `json:"password"`
	// ClientIP was bound at the login.
	ClientIP string `json:"client_ip"`
	// DeviceFingerprint was bound at the login.
	DeviceFingerprint string `json:"device_fingerprint"`
	// UserAgent was bound at the login.
	UserAgent string `json:"user_agent"`

	process *exec.Cmd
	input   io.WriteCloser
	output  *bufio.Reader
	one     sync.Mutex
}

// Start starts a pair. The arguments are those of tools/pair.py.
func Start(arguments ...string) (*Pair, error) {
	root, err := Root()
	if err != nil {
		return nil, err
	}
	pair := &Pair{process: exec.Command(filepath.Join(root, ".venv/bin/python"), append([]string{"-m", "tools.pair"}, arguments...)...)}
	pair.process.Dir = root
	pair.process.Stderr = os.Stderr
	if pair.input, err = pair.process.StdinPipe(); err != nil {
		return nil, err
	}
	output, err := pair.process.StdoutPipe()
	if err != nil {
		return nil, err
	}
	pair.output = bufio.NewReader(output)
	if err := pair.process.Start(); err != nil {
		return nil, err
	}
	if err := pair.read(pair); err != nil {
		return nil, errors.Join(fmt.Errorf("the pair did not start: %w", err), pair.Stop())
	}
	return pair, nil
}

// Run is for TestMain: it starts a pair, hands it to use, runs the tests and ends the pair. It returns the exit code.
func Run(m *testing.M, use func(*Pair), arguments ...string) int {
	pair, err := Start(arguments...)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	use(pair)
	code := m.Run()
	if err := pair.Stop(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}

// Context is the request context that the session was bound to.
func (p *Pair) Context() *trustlayerv1.RequestContext {
	return &trustlayerv1.RequestContext{
		ClientIp: p.ClientIP, DeviceFingerprint: p.DeviceFingerprint, UserAgent: p.UserAgent,
	}
}

// Do carries out a command, for example `stop-sidecar`, and returns when it is done.
func (p *Pair) Do(command string) error {
	p.one.Lock()
	defer p.one.Unlock()
	if _, err := io.WriteString(p.input, command+"\n"); err != nil {
		return err
	}
	var answer struct{ Done, Error string }
	if err := p.read(&answer); err != nil {
		return err
	}
	if answer.Done != command {
		return fmt.Errorf("%s: %s", command, answer.Error)
	}
	return nil
}

// MustDo carries out commands; the test ends where one fails.
func (p *Pair) MustDo(t *testing.T, commands ...string) {
	t.Helper()
	for _, command := range commands {
		if err := p.Do(command); err != nil {
			t.Fatal(err)
		}
	}
}

// Stop ends both programs and removes what they made.
func (p *Pair) Stop() error {
	p.input.Close()
	late := time.AfterFunc(stopTime, func() { p.process.Process.Kill() })
	defer late.Stop()
	return p.process.Wait()
}

func (p *Pair) read(into any) error {
	line, err := p.output.ReadBytes('\n')
	if err != nil {
		return err
	}
	return json.Unmarshal(line, into)
}

// Root finds the repository above the working directory.
func Root() (string, error) {
	directory, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(directory, "tools", "pair.py")); err == nil {
			return directory, nil
		}
		above := filepath.Dir(directory)
		if above == directory {
			return "", errors.New("pairtest needs the repository of the Trust Layer above the working directory")
		}
		directory = above
	}
}
