#!/usr/bin/env bash
# Beam's Go SDK 2.77.0.
# Guess: an entry added to ordered list state is there once for the rest of the element, whichever came first, the Add or a Read.
# Really: an Add is sent to the runner at once and kept for replay. If the first Read of the element comes after it, the
#   answer of the runner has the entry already and the replay adds it again. (Bags subtract such blind writes; lists do not.)
# Hurt: a DoFn that adds and then reads, the usual order for a buffer: counts and sums over the list are too high,
#   only in the element that added. The stored state is right, so the next element shows no sign of it.
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

	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/graph/coder"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/graph/window"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/runtime/exec"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/state"
)

// runner keeps one ordered list; the entries come in order here, so their bytes need no sorting.
type runner struct {
	exec.StateReader
	list []byte
}

func (r *runner) Write(entry []byte) (int, error) {
	r.list = append(r.list, entry...)
	return len(entry), nil
}
func (r *runner) OpenOrderedListUserStateReader(
	_ context.Context, _ exec.StreamID, _ string, _, _ []byte, _, _ int64) (io.ReadCloser, error) {
	return io.NopCloser(bytes.NewReader(bytes.Clone(r.list))), nil
}
func (r *runner) OpenOrderedListUserStateAppender(context.Context, exec.StreamID, string, []byte, []byte) (io.Writer, error) {
	return r, nil
}

func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}

func main() {
	number := coder.NewVarInt()
	input := coder.NewW(coder.NewKV([]*coder.Coder{number, number}), coder.NewGlobalWindow())
	adapter := exec.NewUserStateAdapter(exec.StreamID{}, input, map[string]*coder.Coder{"list": number}, nil, nil)
	list := state.MakeOrderedListState[int64]("list")
	// element gives the state as the SDK makes it anew for each element.
	element := func(r *runner) state.Provider {
		key := &exec.MainInput{Key: exec.FullValue{Elm: int64(1), Elm2: int64(1)}}
		provider := must(adapter.NewStateProvider(context.Background(), r, window.SingleGlobalWindow[0], key))
		return &provider
	}
	read := func(p state.Provider) int {
		entries, _, err := list.Read(p)
		must(0, err)
		return len(entries)
	}

	addFirst := &runner{}
	p := element(addFirst)
	must(0, list.Add(p, 10, 7))
	added, later := read(p), read(element(addFirst))
	readFirst := &runner{}
	p = element(readFirst)
	read(p)
	must(0, list.Add(p, 10, 7))
	afterRead := read(p)
	fmt.Println("entries seen after one Add:", added, "- in the next element:", later, "- when read before the Add:", afterRead)
	if added != 2 || later != 1 || afterRead != 1 {
		os.Exit(1)
	}
}
GO
go mod init finding 2>/dev/null
go mod edit -require=github.com/apache/beam/sdks/v2@v2.77.0
go mod tidy 2>/dev/null
go run .
# Seen: entries seen after one Add: 2 - in the next element: 1 - when read before the Add: 1
