// Group groups more than fits a runner's memory, and checks that nothing of it is lost or doubled.
//
// The input is made by the pipeline itself, in parts that a runner may spread over its workers. Every value carries its
// number; the count and the sum of the numbers that come out of the grouping, and the number of groups, decide.
package main

import (
	"context"
	"encoding/binary"
	"flag"
	"fmt"
	"log"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/register"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/testing/passert"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/transforms/stats"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/x/beamx"
)

const (
	valueBytes = 1024
	parts      = 64
)

var (
	mebibytes = flag.Int64("mebibytes", 4096, "MiB of values to group")
	keys      = flag.Int64("keys", 100_000, "how many keys they have")
)

func init() {
	register.DoFn2x0[[]byte, func(int64)]((*split)(nil))
	register.DoFn2x0[int64, func(int64, []byte)]((*generate)(nil))
	register.DoFn5x0[int64, func(*[]byte) bool, func(int64), func(int64), func(int64)]((*check)(nil))
	register.Emitter1[int64]()
	register.Emitter2[int64, []byte]()
	register.Iter1[[]byte]()
}

// split emits the number of each part.
type split struct{}

func (*split) ProcessElement(_ []byte, emit func(int64)) {
	for part := int64(0); part < parts; part++ {
		emit(part)
	}
}

// generate emits the values whose numbers belong to a part.
type generate struct {
	Count, Keys int64
}

func (f *generate) ProcessElement(part int64, emit func(int64, []byte)) {
	for number := part; number < f.Count; number += parts {
		value := make([]byte, valueBytes)
		binary.BigEndian.PutUint64(value, uint64(number))
		emit(number%f.Keys, value)
	}
}

// check emits 1, the count of a group's values and the sum of their numbers, each to an output of its own.
type check struct {
	Keys int64
}

func (f *check) ProcessElement(key int64, values func(*[]byte) bool, groups, counts, sums func(int64)) {
	var value []byte
	var count, sum int64
	for values(&value) {
		number := int64(binary.BigEndian.Uint64(value))
		if len(value) != valueBytes || number%f.Keys != key {
			panic(fmt.Sprintf("value %d of %d bytes under key %d", number, len(value), key))
		}
		count++
		sum += number
	}
	groups(1)
	counts(count)
	sums(sum)
}

func main() {
	flag.Parse()
	beam.Init()
	count := *mebibytes << 20 / valueBytes
	p, s := beam.NewPipelineWithRoot()
	made := beam.ParDo(s, &generate{Count: count, Keys: *keys}, beam.Reshuffle(s, beam.ParDo(s, &split{}, beam.Impulse(s))))
	groups, counts, sums := beam.ParDo3(s, &check{Keys: *keys}, beam.GroupByKey(s, made))
	passert.Equals(s.Scope("groups"), stats.Sum(s.Scope("groups"), groups), min(*keys, count))
	passert.Equals(s.Scope("values"), stats.Sum(s.Scope("values"), counts), count)
	passert.Equals(s.Scope("numbers"), stats.Sum(s.Scope("numbers"), sums), count*(count-1)/2)
	if err := beamx.Run(context.Background(), p); err != nil {
		log.Fatalf("the job failed: %v", err)
	}
}
