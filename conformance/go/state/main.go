// State does the steps of a scenario of state.py, which says what they are, and prints what they read.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/state"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/options/jobopts"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/register"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/testing/teststream"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/x/beamx"
)

// seen is what user code did, which runs in this process.
var seen struct {
	sync.Mutex
	failed map[string]bool
	read   []string
}

func init() {
	seen.failed = map[string]bool{}
	register.DoFn4x1[state.Provider, string, string, func(string), error](&apply{})
	register.DoFn2x0[string, func(string)](&failLater{})
	register.Function1x0(keep)
	register.Function1x2(keyed)
	register.Emitter1[string]()
	register.Combiner1[int64](&sum{})
}

func failOnce(step string) error {
	seen.Lock()
	defer seen.Unlock()
	if seen.failed[step] {
		return nil
	}
	seen.failed[step] = true
	return errors.New("this is to happen once")
}

func keep(line string) {
	seen.Lock()
	defer seen.Unlock()
	seen.read = append(seen.read, line)
}

// keyed takes apart what TestStream has, which is one string.
func keyed(step string) (string, string) {
	key, rest, _ := strings.Cut(step, ":")
	return key, rest
}

func spelled(text string) string {
	letter, times, big := strings.Cut(text, "*")
	if !big {
		return text
	}
	return strings.Repeat(letter, int(number(times)))
}

func shown(value string) string {
	if len(value) < 100 {
		return value
	}
	return fmt.Sprintf("%c*%d", value[0], len(value))
}

func listed(values []string) string {
	texts := make([]string, len(values))
	for i, value := range values {
		texts[i] = shown(value)
	}
	slices.Sort(texts)
	return "[" + strings.Join(texts, ", ") + "]"
}

func number(word string) int64 {
	n, err := strconv.ParseInt(word, 10, 64)
	if err != nil {
		panic(err)
	}
	return n
}

type sum struct{}

func (*sum) MergeAccumulators(a, b int64) int64 { return a + b }

// apply does the operations of a step, and tells what it reads.
type apply struct {
	Value state.Value[string]
	Sum   state.Combining[int64, int64, int64]
	Bag   state.Bag[string]
	Set   state.Set[string]
	List  state.OrderedList[string]
	Longs state.OrderedList[int64]
	Map   state.Map[string, string]
}

func newApply() *apply {
	return &apply{
		Value: state.MakeValueState[string]("value"),
		Sum:   state.MakeCombiningState[int64, int64, int64]("sum", &sum{}),
		Bag:   state.MakeBagState[string]("bag"),
		Set:   state.MakeSetState[string]("set"),
		List:  state.MakeOrderedListState[string]("list"),
		Longs: state.MakeOrderedListState[int64]("longs"),
		Map:   state.MakeMapState[string, string]("map"),
	}
}

func (f *apply) ProcessElement(p state.Provider, key, step string, emit func(string)) error {
	operations := strings.Split(step, ";")
	for index, operation := range operations[1:] {
		switch operation {
		case "fail":
			if err := failOnce(key + " " + operations[0]); err != nil {
				return err
			}
			continue
		case "fail_later":
			emit(key + " " + operations[0] + " fail")
			continue
		}
		words := strings.Split(operation, " ")
		read, err := f.do(p, words[0], words[1:])
		if err != nil {
			return err
		}
		if strings.HasSuffix(words[0], "?") {
			emit(fmt.Sprintf("%s %s.%d %s -> %s", key, operations[0], index, operation, read))
		}
	}
	return nil
}

func (f *apply) do(p state.Provider, operation string, words []string) (string, error) {
	switch operation {
	case "value.write":
		return "", f.Value.Write(p, words[0])
	case "value.clear":
		return "", f.Value.Clear(p)
	case "value.read?":
		value, there, err := f.Value.Read(p)
		if !there {
			value = "nothing"
		}
		return value, err
	case "sum.add":
		return "", f.Sum.Add(p, number(words[0]))
	case "sum.clear":
		return "", f.Sum.Clear(p)
	case "sum.read?":
		total, _, err := f.Sum.Read(p)
		return fmt.Sprint(total), err
	case "bag.add", "bag.big":
		return "", f.Bag.Add(p, spelled(words[0]))
	case "bag.clear":
		return "", f.Bag.Clear(p)
	case "bag.read?":
		values, _, err := f.Bag.Read(p)
		return listed(values), err
	case "bag.empty?":
		values, _, err := f.Bag.Read(p)
		return fmt.Sprint(len(values) == 0), err
	case "set.add":
		return "", f.Set.Add(p, words[0])
	case "set.remove":
		return "", f.Set.Remove(p, words[0])
	case "set.clear":
		return "", f.Set.Clear(p)
	case "set.has?":
		has, err := f.Set.Contains(p, words[0])
		return fmt.Sprint(has), err
	case "set.read?":
		keys, _, err := f.Set.Keys(p)
		return listed(keys), err
	case "list.add", "list.big":
		return "", f.List.Add(p, number(words[0]), spelled(words[1]))
	case "list.clear":
		return "", f.List.Clear(p)
	case "list.clear_range":
		return "", f.List.ClearRange(p, number(words[0]), number(words[1]))
	case "list.read?":
		values, _, err := f.List.Read(p)
		return entries(values), err
	case "list.range?":
		values, _, err := f.List.ReadRange(p, number(words[0]), number(words[1]))
		return entries(values), err
	case "longs.add":
		return "", f.Longs.Add(p, number(words[0]), number(words[1]))
	case "longs.clear":
		return "", f.Longs.Clear(p)
	case "longs.clear_range":
		return "", f.Longs.ClearRange(p, number(words[0]), number(words[1]))
	case "longs.read?":
		longs, _, err := f.Longs.Read(p)
		values := make([]state.OrderedListValue[string], len(longs))
		for i, long := range longs {
			values[i] = state.OrderedListValue[string]{SortKey: long.SortKey, Value: fmt.Sprint(long.Value)}
		}
		return entries(values), err
	case "map.put":
		return "", f.Map.Put(p, words[0], words[1])
	case "map.remove":
		return "", f.Map.Remove(p, words[0])
	case "map.clear":
		return "", f.Map.Clear(p)
	case "map.get?":
		value, there, err := f.Map.Get(p, words[0])
		if !there {
			return listed(nil), err
		}
		return listed([]string{value}), err
	case "map.keys?":
		keys, _, err := f.Map.Keys(p)
		return listed(keys), err
	}
	return "", fmt.Errorf("no operation %s", operation)
}

func entries(values []state.OrderedListValue[string]) string {
	slices.SortFunc(values, func(a, b state.OrderedListValue[string]) int {
		if a.SortKey != b.SortKey {
			return int(a.SortKey - b.SortKey)
		}
		return strings.Compare(a.Value, b.Value)
	})
	texts := make([]string, len(values))
	for i, entry := range values {
		texts[i] = fmt.Sprintf("%d=%s", entry.SortKey, shown(entry.Value))
	}
	return strings.Join(texts, ", ")
}

// failLater hands on what was read; it fails at the end of a bundle that is to, once, when what is before it is done.
type failLater struct {
	failing string
}

func (f *failLater) StartBundle(_ func(string)) {
	f.failing = ""
}

func (f *failLater) ProcessElement(line string, emit func(string)) {
	if strings.HasSuffix(line, " fail") {
		f.failing = line
		return
	}
	emit(line)
}

func (f *failLater) FinishBundle(_ func(string)) error {
	if f.failing == "" {
		return nil
	}
	return failOnce(f.failing)
}

func main() {
	flag.Parse()
	beam.Init()
	*jobopts.Endpoint, *jobopts.EnvironmentType = flag.Arg(0), "LOOPBACK"
	text, err := os.ReadFile(flag.Arg(1))
	if err != nil {
		log.Fatal(err)
	}
	var events [][][2]string
	if err := json.Unmarshal(text, &events); err != nil {
		log.Fatal(err)
	}
	stream := teststream.NewConfig()
	for _, event := range events {
		var steps []any
		for _, step := range event {
			steps = append(steps, step[0]+":"+step[1])
		}
		if err := stream.AddElements(0, steps...); err != nil {
			log.Fatal(err)
		}
	}
	if err := stream.AdvanceWatermarkToInfinity(); err != nil {
		log.Fatal(err)
	}
	p, s := beam.NewPipelineWithRoot()
	steps := beam.ParDo(s, keyed, teststream.Create(s, stream))
	read := beam.ParDo(s, &failLater{}, beam.ParDo(s, newApply(), steps))
	beam.ParDo0(s, keep, beam.Reshuffle(s, read))
	if _, err := beam.Run(context.Background(), "universal", p); err != nil {
		log.Fatalf("the job failed: %v", err)
	}
	for _, line := range seen.read {
		fmt.Println(line)
	}
	_ = beamx.Run // registers the runner
}
