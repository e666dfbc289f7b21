package main

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"
)

func TestAQuantileIsTheSmallestTimeThatSoManyDoNotExceed(t *testing.T) {
	var times []time.Duration
	for i := range 100 {
		times = append(times, time.Duration(i+1)*time.Microsecond)
	}
	for share, want := range map[float64]float64{0.5: 50, 0.99: 99, 1: 100} {
		if got := quantile(times, share); got != want {
			t.Errorf("%v: got %v, not %v", share, got, want)
		}
	}
	if got := quantile(times[:1], 0.99); got != 1 {
		t.Errorf("of one: got %v", got)
	}
}

func TestEveryCallIsCountedAndAFailureEndsTheMeasurement(t *testing.T) {
	var calls atomic.Int64
	measured, err := measure(func(context.Context) error { calls.Add(1); return nil }, 3, 20*time.Millisecond)
	if err != nil || int64(measured.Calls) != calls.Load() || measured.Concurrency != 3 {
		t.Errorf("got %+v, %v of %d", measured, err, calls.Load())
	}
	failure := errors.New("no")
	if _, err := measure(func(context.Context) error { return failure }, 3, time.Hour); !errors.Is(err, failure) {
		t.Errorf("got %v", err)
	}
}
