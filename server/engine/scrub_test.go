package engine_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lockstepdb/lockstep/server/engine"
	"github.com/lockstepdb/lockstep/server/engine/enginetest"
)

// scrub reads a whole store, by steps of a size.
func scrub(t *testing.T, e *engine.Engine, size int64) (all engine.ScrubStep) {
	t.Helper()
	for steps := 0; !all.Done; steps++ {
		got, err := e.Scrub(enginetest.Context(t), all.Next, size)
		if err != nil || got.Skipped != "" || steps > 10_000 {
			t.Fatalf("scrubbing: %v, skipped %q, %d steps", err, got.Skipped, steps)
		}
		all.Next, all.Done = got.Next, got.Done
		all.Records, all.Entries, all.Bytes = all.Records+got.Records, all.Entries+got.Entries, all.Bytes+got.Bytes
		all.Damage = append(all.Damage, got.Damage...)
	}
	return all
}

// flipValue changes a bit of every copy of a text in a file.
func flipValue(t *testing.T, file, text string) (found int) {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for at := 0; ; at++ {
		i := bytes.Index(b[at:], []byte(text))
		if i < 0 {
			return found
		}
		at += i
		if _, err := f.WriteAt([]byte{b[at] ^ 1}, int64(at)); err != nil {
			t.Fatal(err)
		}
		found++
	}
}

func TestAScrubReadsEverythingByStepsAndFindsNothingWrong(t *testing.T) {
	t.Parallel()
	e := enginetest.New(t, engine.Writer, small)
	e.Hold("s", 1)
	for i := range 400 {
		enginetest.MustDo(t, e, put(fmt.Sprintf("k%04d", i), strings.Repeat("v", 50)))
	}
	if err := e.Checkpoint(enginetest.Context(t)); err != nil {
		t.Fatal(err)
	}
	for _, size := range []int64{1, 4 << 10, 64 << 20} {
		got := scrub(t, e, size)
		if got.Records != 400 || got.Entries != e.Position().Index || len(got.Damage) > 0 {
			t.Errorf("by %d bytes: read %d records and %d entries, found %v; want 400, %d, nothing", size, got.Records, got.Entries, got.Damage, e.Position().Index)
		}
	}
}

// A byte of a record that nobody reads, and one of a segment that is sealed, of a store at work: named within a pass, and mended on a secondary.
func TestAScrubFindsWhatRotsInALiveStore(t *testing.T) {
	t.Parallel()
	const coldRecord, coldEntry = "a value that nobody reads", "an entry that nobody reads"
	p := enginetest.New(t, engine.Writer, small)
	p.Hold("s", 1)
	write := func(from, to int) {
		for i := from; i < to; i++ {
			enginetest.MustDo(t, p, put(fmt.Sprintf("k%04d", i), strings.Repeat("v", 200)))
		}
	}
	write(0, 100)
	enginetest.MustDo(t, p, put("k0050", coldRecord))
	write(100, 150)
	dir := filepath.Join(t.TempDir(), "secondary")
	if err := engine.Create(dir, enginetest.Secondary(p, engine.Verbatim), nil); err != nil {
		t.Fatal(err)
	}
	e := enginetest.Open(t, dir, engine.Verbatim, small, func(c *engine.Config) { c.Repairable = true })
	e.Hold("s", 1)
	s := &syncing{t: t, feeder: p, e: e}
	if err := s.run(); err != nil {
		t.Fatal(err)
	}
	enginetest.MustDo(t, p, put("entry", coldEntry))
	for i := 150; i < 400; i += 50 {
		write(i, i+50)
		if err := s.follow(); err != nil {
			t.Fatal(err)
		}
	}
	if err := e.Checkpoint(enginetest.Context(t)); err != nil {
		t.Fatal(err)
	}
	if flipValue(t, filepath.Join(dir, "state.db"), coldRecord) == 0 {
		t.Fatal("the state file does not hold the record")
	}
	files := segments(t, dir)
	flipped := 0
	for _, file := range files[:len(files)-1] {
		flipped += flipValue(t, file, coldEntry)
	}
	if flipped == 0 {
		t.Fatalf("no sealed segment of %d holds the entry", len(files))
	}

	got := scrub(t, e, 4<<10)
	var records, entries []engine.ScrubDamage
	for _, d := range got.Damage {
		if d.Log {
			entries = append(entries, d)
		} else {
			records = append(records, d)
		}
	}
	if len(records) != 1 || records[0].Keyspace != shared || string(records[0].Low) > "k0050" || string(records[0].High) <= "k0050" && len(records[0].High) > 0 {
		t.Errorf("records: got %+v, want the range that holds k0050", records)
	}
	if len(entries) != 1 || entries[0].Index == 0 || !strings.HasSuffix(entries[0].File, ".wal") {
		t.Errorf("log: got %+v, want the entry that rotted", entries)
	}
	if len(e.Damaged()) != 2 {
		t.Errorf("%d places were passed on for repair, want 2", len(e.Damaged()))
	}

	if _, err := e.Reindex(enginetest.Context(t), nil); err != nil { // what a secondary does that hears of damage
		t.Fatal(err)
	}
	s = &syncing{t: t, feeder: p, e: e, partial: true}
	if err := s.run(); err != nil {
		t.Fatal(err)
	}
	s.mustEqual()
	if got := scrub(t, e, 4<<10); len(got.Damage) > 0 {
		t.Errorf("after the repair: %+v", got.Damage)
	}
	enginetest.Check(t, e)
}
