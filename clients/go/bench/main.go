// The bench program of the Go client: a validation that the sidecar answers from memory, beside what Go apps do
// otherwise. bench/languages.py starts it, hands it one JSON object on standard input, and reads a line of JSON per
// measurement.
package main

import (
	"context"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/redis/go-redis/v9"

	trustlayer "trustlayer/clients/go"
	"trustlayer/clients/go/trustlayerv1"
)

// parameters are what bench/languages.py says.
type parameters struct {
	Socket          string  `json:"socket"`
	SessionID       string  `json:"session_id"`
	ClientIP        string  `json:"client_ip"`
	RedisSocket     string  `json:"redis_socket"`
	RedisKey        string  `json:"redis_key"`
	JWT             string  `json:"jwt"`
	JWTPublicKeyPEM string  `json:"jwt_public_key_pem"`
	Seconds         float64 `json:"seconds"`
	WarmupSeconds   float64 `json:"warmup_seconds"`
	Concurrency     []int   `json:"concurrency"`
}

func main() {
	if err := run(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(input io.Reader, output io.Writer) error {
	var p parameters
	if err := json.NewDecoder(input).Decode(&p); err != nil {
		return err
	}
	client, err := trustlayer.New(p.Socket)
	if err != nil {
		return err
	}
	defer client.Close()
	store := redis.NewClient(&redis.Options{Network: "unix", Addr: p.RedisSocket})
	defer store.Close()
	key, err := jwt.ParseRSAPublicKeyFromPEM([]byte(p.JWTPublicKeyPEM))
	if err != nil {
		return err
	}
	lines := json.NewEncoder(output)
	warmup, duration := seconds(p.WarmupSeconds), seconds(p.Seconds)
	for _, one := range []struct {
		what        string
		concurrency []int
		call        func(context.Context) error
	}{
		{"validate", p.Concurrency, validation(client, &p)},
		{"redis_get", p.Concurrency, redisGet(store, p.RedisKey)},
		{"jwt_verify", []int{1}, jwtVerify(p.JWT, key)},
	} {
		for _, concurrency := range one.concurrency {
			if _, err := measure(one.call, concurrency, warmup); err != nil {
				return fmt.Errorf("%s: %w", one.what, err)
			}
			measured, err := measure(one.call, concurrency, duration)
			if err != nil {
				return fmt.Errorf("%s: %w", one.what, err)
			}
			measured.What = one.what
			if err := lines.Encode(measured); err != nil {
				return err
			}
		}
	}
	return nil
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

func validation(client *trustlayer.Client, p *parameters) func(context.Context) error {
	question := &trustlayerv1.ValidateRequest{
		SessionId: p.SessionID, Context: &trustlayerv1.RequestContext{ClientIp: p.ClientIP},
	}
	return func(ctx context.Context) error {
		answer, err := client.Validate(ctx, question)
		if err == nil && answer.Session.GetHandle() == "" {
			return errors.New("the session has no handle")
		}
		return err
	}
}

func redisGet(store *redis.Client, key string) func(context.Context) error {
	return func(ctx context.Context) error {
		text, err := store.Get(ctx, key).Bytes()
		if err != nil {
			return err
		}
		var session map[string]any
		return json.Unmarshal(text, &session)
	}
}

func jwtVerify(token string, key *rsa.PublicKey) func(context.Context) error {
	parser := jwt.NewParser(jwt.WithValidMethods([]string{"RS256"}), jwt.WithExpirationRequired())
	return func(context.Context) error {
		_, err := parser.Parse(token, func(*jwt.Token) (any, error) { return key, nil })
		return err
	}
}
