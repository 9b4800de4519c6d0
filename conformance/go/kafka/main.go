// Kafka copies records from one topic to another, as a Go program with kafkaio does: so many, or for ever.
package main

import (
	"context"
	"flag"
	"log"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/io/xlang/kafkaio"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/register"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/x/beamx"
)

var (
	expansion = flag.String("expansion_addr", "", "the expansion service, HOST:PORT")
	bootstrap = flag.String("bootstrap", "", "the brokers, HOST:PORT")
	from      = flag.String("from", "", "the topic that is read")
	to        = flag.String("to", "", "the topic that is written")
	records   = flag.Int64("records", 0, "how many records; 0: all that ever come")
)

func init() {
	register.Function2x2(mark)
}

// mark adds to a value what shows that it was here.
func mark(key, value []byte) ([]byte, []byte) {
	if key == nil {
		key = []byte("(null)")
	}
	return key, append(append([]byte{}, value...), '!')
}

func main() {
	flag.Parse()
	beam.Init()
	pipeline, scope := beam.NewPipelineWithRoot()
	config := kafkaio.ConsumerConfigs(map[string]string{"auto.offset.reset": "earliest"})
	var read beam.PCollection
	if *records > 0 {
		read = kafkaio.Read(scope, *expansion, *bootstrap, []string{*from}, config, kafkaio.MaxNumRecords(*records))
	} else {
		read = kafkaio.Read(scope, *expansion, *bootstrap, []string{*from}, config)
	}
	kafkaio.Write(scope, *expansion, *bootstrap, *to, beam.ParDo(scope, mark, read))
	if err := beamx.Run(context.Background(), pipeline); err != nil {
		log.Fatal(err)
	}
}
