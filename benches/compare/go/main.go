// Pipelines is one measured pipeline of the Go SDK: it prints the seconds from submission to DONE.
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"time"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/state"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/register"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/testing/passert"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/transforms/stats"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/x/beamx"
)

const (
	elements = 1_000_000
	keys     = 1_000
	side     = 300_000
	counted  = 50_000
)

var caseName = flag.String("case", "impulse", "the pipeline to run")

func init() {
	register.Function2x0(emitElements)
	register.Function2x0(emitTable)
	register.Function2x1(length)
	register.Function2x1(addUp)
	register.Function2x1(one)
	register.Function1x1(size)
	register.DoFn3x0[int64, []byte, func(int64)]((*countEach)(nil))
	register.Function2x0(emitCounted)
	register.Function2x1(largest)
	register.Function2x1(sum)
	register.DoFn3x2[state.Provider, int64, int64, int64, error](&countInState{})
	register.Emitter1[int64]()
	register.Emitter2[int64, []byte]()
	register.Emitter2[int64, int64]()
	register.Iter1[[]byte]()
	register.Iter2[int64, int64]()
}

func emitElements(_ []byte, emit func(int64, []byte)) {
	value := make([]byte, 100)
	for i := int64(0); i < elements; i++ {
		emit(i%keys, value)
	}
}

func emitTable(_ []byte, emit func(int64, int64)) {
	for i := int64(0); i < side; i++ {
		emit(i, i)
	}
}

func length(_ int64, values func(*[]byte) bool) int64 {
	var value []byte
	var count int64
	for values(&value) {
		count++
	}
	return count
}

// addUp reads the whole table, and adds what it finds.
func addUp(_ []byte, table func(*int64, *int64) bool) int64 {
	var key, value, sum int64
	for table(&key, &value) {
		sum += value
	}
	return sum
}

func size(data []byte) int64 { return int64(len(data)) }

func one(key int64, _ []byte) int64 { return key }

// countEach counts the elements of a bundle without keeping them.
type countEach struct {
	count int64
}

func (f *countEach) StartBundle(_ func(int64)) { f.count = 0 }

func (f *countEach) ProcessElement(_ int64, _ []byte, _ func(int64)) { f.count++ }

func (f *countEach) FinishBundle(emit func(int64)) { emit(f.count) }

func emitCounted(_ []byte, emit func(int64, int64)) {
	for i := int64(0); i < counted; i++ {
		emit(i%keys, i)
	}
}

// countInState adds to a combining state and reads it, for every element.
type countInState struct {
	Count state.Combining[int64, int64, int64]
}

func (f *countInState) ProcessElement(p state.Provider, _ int64, _ int64) (int64, error) {
	if err := f.Count.Add(p, 1); err != nil {
		return 0, err
	}
	count, _, err := f.Count.Read(p)
	return count, err
}

func largest(a, b int64) int64 { return max(a, b) }

func sum(a, b int64) int64 { return a + b }

func build(s beam.Scope, name string) error {
	impulse := beam.Impulse(s)
	switch name {
	case "impulse":
	case "pardo":
		beam.ParDo(s, size, impulse)
	case "group":
		lengths := beam.ParDo(s, length, beam.GroupByKey(s, beam.ParDo(s, emitElements, impulse)))
		passert.Equals(s, stats.Sum(s, lengths), int64(elements))
	case "combine":
		counted := stats.Count(s, beam.ParDo(s, one, beam.ParDo(s, emitElements, impulse)))
		passert.Count(s, counted, "keys", keys)
	case "reshuffle":
		counted := beam.ParDo(s, &countEach{}, beam.Reshuffle(s, beam.ParDo(s, emitElements, impulse)))
		passert.Equals(s, stats.Sum(s, counted), int64(elements))
	case "side-input":
		table := beam.ParDo(s, emitTable, beam.Impulse(s))
		passert.Equals(s, beam.ParDo(s, addUp, impulse, beam.SideInput{Input: table}), int64(side)*(side-1)/2)
	case "state":
		keyed := beam.ParDo(s, emitCounted, impulse)
		counts := beam.ParDo(s, &countInState{Count: state.MakeCombiningState[int64, int64, int64]("count", sum)}, keyed)
		passert.Equals(s, beam.Combine(s, largest, counts), int64(counted/keys))
	default:
		return fmt.Errorf("there is no case %q", name)
	}
	return nil
}

func main() {
	flag.Parse()
	beam.Init()
	p, s := beam.NewPipelineWithRoot()
	if err := build(s, *caseName); err != nil {
		log.Fatal(err)
	}
	start := time.Now()
	if err := beamx.Run(context.Background(), p); err != nil {
		log.Fatalf("the job failed: %v", err)
	}
	fmt.Println(time.Since(start).Seconds())
}
