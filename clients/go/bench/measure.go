package main

import (
	"context"
	"errors"
	"math"
	"slices"
	"sync"
	"time"
)

// measurement is a line of the output. The quantiles are in microseconds, over every call.
type measurement struct {
	What        string  `json:"what"`
	Concurrency int     `json:"concurrency"`
	Calls       int     `json:"calls"`
	P50         float64 `json:"p50_us"`
	P99         float64 `json:"p99_us"`
	PerSecond   float64 `json:"per_second"`
}

// measure keeps so many calls in flight for that time. The first that fails ends it.
func measure(call func(context.Context) error, concurrency int, duration time.Duration) (measurement, error) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	took := make([][]time.Duration, concurrency)
	failed := make([]error, concurrency)
	begin := time.Now()
	var workers sync.WaitGroup
	for worker := range concurrency {
		workers.Go(func() {
			for ctx.Err() == nil && time.Since(begin) < duration {
				start := time.Now()
				if err := call(ctx); err != nil {
					failed[worker] = err
					cancel()
					return
				}
				took[worker] = append(took[worker], time.Since(start))
			}
		})
	}
	workers.Wait()
	elapsed := time.Since(begin)
	for _, err := range failed {
		if err != nil && !errors.Is(err, context.Canceled) {
			return measurement{}, err
		}
	}
	all := slices.Concat(took...)
	slices.Sort(all)
	return measurement{
		Concurrency: concurrency,
		Calls:       len(all),
		P50:         quantile(all, 0.50),
		P99:         quantile(all, 0.99),
		PerSecond:   float64(len(all)) / elapsed.Seconds(),
	}, nil
}

// quantile is that of sorted times, in microseconds: the smallest time that so large a share of them does not exceed.
func quantile(sorted []time.Duration, share float64) float64 {
	if len(sorted) == 0 {
		return 0
	}
	index := max(0, int(math.Ceil(share*float64(len(sorted))))-1)
	return float64(sorted[index]) / float64(time.Microsecond)
}
