// Package drive is what the drivers of peers share: they take the same arguments, put the same records with the same
// number of clients, and print what they measured as JSON.
package drive

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"math/rand/v2"
	"os"
	"syscall"
	"time"

	"github.com/lockstepdb/lockstep/bench/load"
	"github.com/lockstepdb/lockstep/bench/report"
)

// keyBytes is the length of a key at the beginning of a record.
const keyBytes = 9

// Split returns key and value of a record.
func Split(record []byte) (key, value []byte) { return record[:keyBytes], record[keyBytes:] }

// Config is what a driver is told.
type Config struct {
	Address string
	Clients int
	Keys    int
	Size    int
	Length  time.Duration
	Warmup  time.Duration
}

// Main measures as the arguments say, and prints a report.Run.
func Main(args []string, dial func(address string) (load.Client, error)) error {
	var cfg Config
	fs := flag.NewFlagSet("drive", flag.ContinueOnError)
	fs.StringVar(&cfg.Address, "address", "", "host:port")
	fs.IntVar(&cfg.Clients, "clients", 1, "connections")
	fs.IntVar(&cfg.Keys, "keys", 100_000, "records")
	fs.IntVar(&cfg.Size, "size", 1024, "bytes of a value")
	fs.DurationVar(&cfg.Length, "length", 5*time.Second, "what is measured")
	fs.DurationVar(&cfg.Warmup, "warmup", time.Second, "before anything counts")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if cfg.Address == "" || cfg.Keys < 1 || cfg.Clients < 1 || cfg.Size < 16 {
		return errors.New("-address is needed, and -keys, -clients at least 1, -size 16")
	}
	run, err := Run(cfg, dial)
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(run)
}

// Run measures.
func Run(cfg Config, dial func(address string) (load.Client, error)) (report.Run, error) {
	var begun, ended float64
	result, err := load.Run(context.Background(), load.Config{
		Dial: func() (load.Client, error) { return dial(cfg.Address) }, Clients: cfg.Clients, Warmup: cfg.Warmup, Length: cfg.Length,
		Seed: uint64(time.Now().UnixNano()), New: func(_ int, rng *rand.Rand) load.Source { return records(cfg, rng) },
		Begin: func() { begun = used() }, End: func() { ended = used() },
	})
	if err != nil {
		return report.Run{}, err
	}
	ms := func(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
	h := &result.Latency
	return report.Run{
		Value: result.PerSecond(), P50: ms(h.Quantile(0.5)), P90: ms(h.Quantile(0.9)), P99: ms(h.Quantile(0.99)), Max: ms(h.Max()),
		Driver: (ended - begun) * 1000 / float64(result.Count),
	}, nil
}

// records are key and value, one after the other, with random keys and values that differ in their beginning.
func records(cfg Config, rng *rand.Rand) load.Source {
	record := append(make([]byte, keyBytes), load.Text(rng, cfg.Size)...)
	return func() []byte {
		copy(record, load.Key(rng.IntN(cfg.Keys)))
		copy(record[keyBytes:], load.Text(rng, 10))
		return record
	}
}

func used() float64 {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return float64(u.Utime.Nano()+u.Stime.Nano()) / float64(time.Second)
}
