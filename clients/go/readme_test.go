package trustlayer_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"
)

func TestTheReadmesFirstSnippetRunsAsItStands(t *testing.T) {
	text, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	snippet := regexp.MustCompile("(?s)```go\n(.*?)```").FindSubmatch(text)
	source := filepath.Join(t.TempDir(), "main.go")
	if err := os.WriteFile(source, snippet[1], 0o600); err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(t.TempDir(), "snippet")
	if said, err := exec.Command("go", "build", "-o", program, source).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, said)
	}
	for sessionID, want := range map[string]string{
		pair.SessionID: "welcome, Ada [reader]\n",
		"sess_x":       "no: MALFORMED\n",
	} {
		command := exec.CommandContext(t.Context(), program)
		command.Env = append(os.Environ(),
			"TRUSTLAYER_SOCKET="+pair.Socket, "CLIENT_IP="+pair.ClientIP, "SESSION_ID="+sessionID)
		if said, err := command.CombinedOutput(); err != nil || string(said) != want {
			t.Errorf("got %q, %v", said, err)
		}
	}
}
