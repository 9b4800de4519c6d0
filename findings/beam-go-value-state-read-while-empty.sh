#!/usr/bin/env bash
# Beam's Go SDK 2.77.0.
# Guess: within one element, state reads what the element has written: that is what its buffered transactions are for.
# Really: a value or combining cell that is read while it is empty stays empty for the rest of the element, whatever is
#   written. A combining Add reads first, so of several Adds to a fresh cell only the last counts; the same code is right as
#   soon as the cell holds something.
# Hurt: a DoFn that counts more than once an element: the first element of every key (and after every Clear) is counted
#   wrong, later ones right. And a runner's author who looks for the lost update in the runner.
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT; cd "$dir"
cat > main.go <<'GO'
package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"

	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/graph"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/graph/coder"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/graph/window"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/runtime/exec"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/state"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/register"
)

// runner keeps one cell of bag state, as a runner does for a value: appended to and cleared at once.
type runner struct {
	exec.StateReader
	cell []byte
}
type appender struct{ *runner }
type clearer struct{ *runner }

func (a appender) Write(b []byte) (int, error) { a.cell = append(a.cell, b...); return len(b), nil }
func (c clearer) Write(b []byte) (int, error)  { c.cell = nil; return len(b), nil }
func (r *runner) OpenBagUserStateReader(context.Context, exec.StreamID, string, []byte, []byte) (io.ReadCloser, error) {
	return io.NopCloser(bytes.NewReader(bytes.Clone(r.cell))), nil
}
func (r *runner) OpenBagUserStateAppender(context.Context, exec.StreamID, string, []byte, []byte) (io.Writer, error) {
	return appender{r}, nil
}
func (r *runner) OpenBagUserStateClearer(context.Context, exec.StreamID, string, []byte, []byte) (io.Writer, error) {
	return clearer{r}, nil
}

type sum struct{}

func (*sum) CreateAccumulator() int64           { return 0 }
func (*sum) AddInput(acc, n int64) int64        { return acc + n }
func (*sum) MergeAccumulators(a, b int64) int64 { return a + b }
func (*sum) ExtractOutput(acc int64) int64      { return acc }

func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}

func main() {
	register.Combiner1[int64](&sum{})
	number := coder.NewVarInt()
	input := coder.NewW(coder.NewKV([]*coder.Coder{number, number}), coder.NewGlobalWindow())
	adapter := exec.NewUserStateAdapter(exec.StreamID{}, input, map[string]*coder.Coder{"v": number, "c": number}, nil,
		map[string]*graph.CombineFn{"c": must(graph.NewCombineFn(&sum{}))})
	// element gives the state as the SDK makes it anew for each element.
	element := func(r *runner) state.Provider {
		key := &exec.MainInput{Key: exec.FullValue{Elm: int64(1), Elm2: int64(1)}}
		provider := must(adapter.NewStateProvider(context.Background(), r, window.SingleGlobalWindow[0], key))
		return &provider
	}

	value := state.MakeValueState[int64]("v")
	written := func(start ...byte) (int64, bool) {
		p := element(&runner{cell: start})
		_, _, err := value.Read(p)
		must(0, err)
		must(0, value.Write(p, 7))
		got, found, err := value.Read(p)
		must(0, err)
		return got, found
	}
	total := state.MakeCombiningState[int64, int64, int64]("c", &sum{})
	added := func(start ...byte) int64 {
		r := &runner{cell: start}
		p := element(r)
		for _, n := range []int64{1, 2, 3} {
			must(0, total.Add(p, n))
		}
		got, _, err := total.Read(element(r))
		must(0, err)
		return got
	}

	got, found := written()
	gotHeld, foundHeld := written(100)
	fmt.Println("value: read, write 7, read. Empty before:", got, found, "- held 100 before:", gotHeld, foundHeld)
	fresh, held := added(), added(100)
	fmt.Println("combining sum: add 1, 2 and 3, read in the next element. Empty before:", fresh, "- held 100 before:", held)
	if found || gotHeld != 7 || fresh != 3 || held != 106 {
		os.Exit(1)
	}
}
GO
go mod init finding 2>/dev/null
go mod edit -require=github.com/apache/beam/sdks/v2@v2.77.0
go mod tidy 2>/dev/null
go run .
# Seen:
#   value: read, write 7, read. Empty before: 0 false - held 100 before: 7 true
#   combining sum: add 1, 2 and 3, read in the next element. Empty before: 3 - held 100 before: 106
