// Loadgen measures a unary gRPC method on a Unix socket, or a server of HTTP/1.1: a closed loop with a fixed number of
// calls in flight.
//
// It knows no message: requests are files of serialized bytes, answers are counted and dropped. It prints one
// line of JSON to standard output. A call that does not end with status OK counts as an error; its time is not
// among the quantiles. For HTTP a request file holds the request as it goes over the wire, each call in flight has a
// connection of its own, and what is not answered with 200 is an error.
//
//	loadgen -socket /run/s.sock -method /pkg.Service/Method -request-file a.bin -concurrency 16 -requests 10000
//	loadgen -http 127.0.0.1:8080 -request-file a.http -concurrency 16 -duration 3s
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// rawCodec passes bytes through, so that this program measures the server and not its own protobuf code.
type rawCodec struct{}

func (rawCodec) Marshal(v any) ([]byte, error) { return *v.(*[]byte), nil }

func (rawCodec) Unmarshal(data []byte, v any) error {
	*v.(*[]byte) = data
	return nil
}

func (rawCodec) Name() string { return "proto" }

// files collects -request-file, which may be given several times.
type files []string

func (f *files) String() string { return fmt.Sprint(*f) }

func (f *files) Set(name string) error {
	*f = append(*f, name)
	return nil
}

type options struct {
	socket, method string
	httpAddress    string
	requestFiles   files
	concurrency    int
	requests       int64
	duration       time.Duration
	warmup         int64
	timeout        time.Duration
}

// result is the line that is printed; the quantiles are in microseconds.
type result struct {
	Requests   int64   `json:"requests"`
	Errors     int64   `json:"errors"`
	FirstError string  `json:"first_error,omitempty"`
	Seconds    float64 `json:"seconds"`
	RPS        float64 `json:"rps"`
	P50        float64 `json:"p50_us"`
	P90        float64 `json:"p90_us"`
	P99        float64 `json:"p99_us"`
	P999       float64 `json:"p999_us"`
	Max        float64 `json:"max_us"`
}

func main() {
	// One core is plenty for this, leaves the others to the server, and spares goroutines the way between cores.
	runtime.GOMAXPROCS(1)
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "loadgen:", err)
		os.Exit(1)
	}
}

func parse() (options, error) {
	var o options
	flag.StringVar(&o.socket, "socket", "", "path of the Unix socket")
	flag.StringVar(&o.method, "method", "", "full method name, /package.Service/Method")
	flag.StringVar(&o.httpAddress, "http", "", "host:port of a server of HTTP/1.1, instead of -socket and -method")
	flag.Var(&o.requestFiles, "request-file", "serialized request; repeat for several, sent round robin")
	flag.IntVar(&o.concurrency, "concurrency", 1, "calls in flight")
	flag.Int64Var(&o.requests, "requests", 0, "calls to measure")
	flag.DurationVar(&o.duration, "duration", 0, "time to measure, instead of -requests; SIGTERM ends it early")
	flag.Int64Var(&o.warmup, "warmup", 0, "calls made before the measurement")
	flag.DurationVar(&o.timeout, "timeout", 10*time.Second, "deadline of one call")
	flag.Parse()
	if (o.httpAddress == "") == (o.socket == "" && o.method == "") {
		return o, errors.New("give either -http, or -socket and -method")
	}
	if o.httpAddress == "" && (o.socket == "" || o.method == "") || len(o.requestFiles) == 0 || o.concurrency < 1 {
		return o, errors.New("-socket, -method, -request-file and -concurrency >= 1 are needed")
	}
	if (o.requests > 0) == (o.duration > 0) {
		return o, errors.New("give either -requests or -duration")
	}
	return o, nil
}

func run() error {
	o, err := parse()
	if err != nil {
		return err
	}
	requests := make([][]byte, len(o.requestFiles))
	for i, name := range o.requestFiles {
		if requests[i], err = os.ReadFile(name); err != nil {
			return err
		}
	}
	l := loop{options: o, requestBytes: requests}
	if o.httpAddress == "" {
		conn, err := dial(o.socket)
		if err != nil {
			return err
		}
		defer conn.Close()
		l.newCaller = func() (caller, error) { return grpcCaller{conn, o}, nil }
	} else {
		l.newCaller = func() (caller, error) { return newHTTPCaller(o) }
	}
	stop, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer cancel()

	if o.warmup > 0 {
		l.measure(stop, o.warmup, 0)
	}
	return json.NewEncoder(os.Stdout).Encode(l.measure(stop, o.requests, o.duration))
}

func dial(socket string) (*grpc.ClientConn, error) {
	return grpc.NewClient("unix:"+socket,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		// Fixed windows: to tune them, grpc-go would send a ping with every answer.
		grpc.WithStaticStreamWindowSize(1<<16), grpc.WithStaticConnWindowSize(1<<20),
		grpc.WithDefaultCallOptions(grpc.ForceCodec(rawCodec{})))
}

// caller makes one call at a time; each worker has its own.
type caller interface {
	call(request []byte) error
	close()
}

type loop struct {
	options
	newCaller    func() (caller, error)
	requestBytes [][]byte
}

// measure keeps `concurrency` calls in flight until the calls are made, the time is over or stop is done. Calls
// in flight at that moment are finished and counted.
func (l *loop) measure(stop context.Context, requests int64, duration time.Duration) result {
	if duration > 0 {
		var cancel context.CancelFunc
		stop, cancel = context.WithTimeout(stop, duration)
		defer cancel()
	}
	var (
		next, failed atomic.Int64
		firstError   atomic.Value
		workers      sync.WaitGroup
	)
	times := make([][]time.Duration, l.concurrency)
	start := time.Now()
	for worker := range times {
		workers.Go(func() {
			caller, err := l.newCaller()
			if err != nil {
				failed.Add(1)
				firstError.CompareAndSwap(nil, err.Error())
				return
			}
			defer caller.close()
			for stop.Err() == nil {
				n := next.Add(1)
				if requests > 0 && n > requests {
					return
				}
				called := time.Now()
				if err := caller.call(l.requestBytes[n%int64(len(l.requestBytes))]); err != nil {
					failed.Add(1)
					firstError.CompareAndSwap(nil, err.Error())
					continue
				}
				times[worker] = append(times[worker], time.Since(called))
			}
		})
	}
	workers.Wait()
	r := summarize(slices.Concat(times...), failed.Load(), time.Since(start))
	r.FirstError, _ = firstError.Load().(string)
	return r
}

// grpcCaller shares one connection with all others.
type grpcCaller struct {
	conn *grpc.ClientConn
	options
}

func (c grpcCaller) call(request []byte) error {
	ctx, cancel := context.WithTimeout(context.Background(), c.timeout)
	defer cancel()
	var answer []byte
	return c.conn.Invoke(ctx, c.method, &request, &answer)
}

func (c grpcCaller) close() {}

// httpCaller keeps a connection, and writes requests as they are.
type httpCaller struct {
	conn   net.Conn
	reader *bufio.Reader
	options
}

func newHTTPCaller(o options) (caller, error) {
	conn, err := net.DialTimeout("tcp", o.httpAddress, o.timeout)
	if err != nil {
		return nil, err
	}
	return &httpCaller{conn: conn, reader: bufio.NewReader(conn), options: o}, nil
}

func (c *httpCaller) call(request []byte) error {
	if err := c.conn.SetDeadline(time.Now().Add(c.timeout)); err != nil {
		return err
	}
	if _, err := c.conn.Write(request); err != nil {
		return err
	}
	response, err := http.ReadResponse(c.reader, nil)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, response.Body)
	response.Body.Close()
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("status %d", response.StatusCode)
	}
	return err
}

func (c *httpCaller) close() { c.conn.Close() }

func summarize(times []time.Duration, failed int64, took time.Duration) result {
	slices.Sort(times)
	// Nearest rank: the smallest time that at least this share of the calls did not exceed.
	quantile := func(perMille int) float64 {
		if len(times) == 0 {
			return 0
		}
		rank := (len(times)*perMille + 999) / 1000
		return float64(times[rank-1].Nanoseconds()) / 1e3
	}
	return result{
		Requests: int64(len(times)), Errors: failed, Seconds: took.Seconds(),
		RPS: float64(len(times)) / took.Seconds(),
		P50: quantile(500), P90: quantile(900), P99: quantile(990), P999: quantile(999), Max: quantile(1000),
	}
}
