// An app with net/http that uses the Trust Layer: people log in, see where they are logged in, and log out everywhere
// else; an admin page asks for more. README.md says how to run it.
package main

import (
	"context"
	"fmt"
	"log"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	trustlayer "trustlayer/clients/go"
)

const (
	// Whoever is slower than this holds a connection for nothing.
	requestTime = 15 * time.Second
	drainTime   = 5 * time.Second
	mostHeader  = 16 << 10
)

func main() {
	if err := run(); err != nil {
		log.Fatal(err)
	}
}

// run serves until SIGTERM or Ctrl-C.
func run() error {
	stop, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer cancel()
	client, err := trustlayer.New(os.Getenv("TRUSTLAYER_SOCKET"))
	if err != nil {
		return fmt.Errorf("TRUSTLAYER_SOCKET: %w", err)
	}
	defer client.Close()
	proxies, err := trustedProxies(os.Getenv("APP_TRUSTED_PROXIES"))
	if err != nil {
		return err
	}
	handler, err := newApp(client, proxies)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", listenAddress())
	if err != nil {
		return err
	}
	server := &http.Server{
		Handler: handler, MaxHeaderBytes: mostHeader,
		ReadTimeout: requestTime, WriteTimeout: requestTime, IdleTimeout: time.Minute,
	}
	fmt.Println("go-app listening on", listener.Addr())
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	select {
	case err := <-served:
		return err
	case <-stop.Done():
	}
	ctx, cancel := context.WithTimeout(context.Background(), drainTime)
	defer cancel()
	return server.Shutdown(ctx)
}

func listenAddress() string {
	if address := os.Getenv("APP_LISTEN"); address != "" {
		return address
	}
	return "127.0.0.1:8080"
}

func trustedProxies(text string) ([]netip.Prefix, error) {
	var proxies []netip.Prefix
	for part := range strings.FieldsFuncSeq(text, func(r rune) bool { return r == ',' || r == ' ' }) {
		proxy, err := netip.ParsePrefix(part)
		if err != nil {
			return nil, fmt.Errorf("APP_TRUSTED_PROXIES: %w", err)
		}
		proxies = append(proxies, proxy)
	}
	return proxies, nil
}
