// The driver of the conformance cases: it does with the client what the runner says. See conformance.proto.
package main

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"

	"google.golang.org/protobuf/proto"

	"trustlayer/clients/go/conformance/conformancev1"
)

// mostBytes bounds a message of the runner.
const mostBytes = 64 << 20

func main() {
	driver := newDriver()
	if err := serve(driver, bufio.NewReader(os.Stdin), os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "driver:", err)
		os.Exit(1)
	}
	driver.close()
}

// serve answers requests until there are no more.
func serve(driver *driver, input io.Reader, output io.Writer) error {
	for {
		request, err := read(input)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := write(output, driver.do(request)); err != nil {
			return err
		}
	}
}

func read(input io.Reader) (*conformancev1.DriverRequest, error) {
	var length uint32
	if err := binary.Read(input, binary.BigEndian, &length); err != nil {
		return nil, err
	}
	if length > mostBytes {
		return nil, fmt.Errorf("a request of %d bytes", length)
	}
	message := make([]byte, length)
	if _, err := io.ReadFull(input, message); err != nil {
		return nil, fmt.Errorf("half a request: %w", errors.Join(err, io.ErrUnexpectedEOF))
	}
	request := &conformancev1.DriverRequest{}
	return request, proto.Unmarshal(message, request)
}

func write(output io.Writer, response *conformancev1.DriverResponse) error {
	message, err := proto.Marshal(response)
	if err != nil {
		return err
	}
	_, err = output.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(message))), message...))
	return err
}
