package cluster

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// Value returns a value of a size that is another for each n and generation.
func Value(n, generation, size int) string {
	head := fmt.Sprintf("value-%d-%09d.", generation, n)
	return head + strings.Repeat("v", max(0, size-len(head)))
}

// Fill writes n records of a size below a path, many at once:
// path/000000000 and so on, with Value(i, 0, size).
func Fill(t testing.TB, node *Node, path string, n, size int) {
	t.Helper()
	var next atomic.Int64
	var failed atomic.Pointer[error]
	var all sync.WaitGroup
	for range 64 {
		all.Go(func() {
			for i := int(next.Add(1)) - 1; i < n && failed.Load() == nil; i = int(next.Add(1)) - 1 {
				if err := node.Put(context.Background(), Key(path, i), Value(i, 0, size)); err != nil {
					failed.Store(&err)
				}
			}
		})
	}
	all.Wait()
	if err := failed.Load(); err != nil {
		t.Fatalf("fill %s: %v\n%s", node.Name, *err, node.LogTail(30))
	}
}

// Key is the path of Fill's record i.
func Key(path string, i int) string { return fmt.Sprintf("%s/%09d", path, i) }
