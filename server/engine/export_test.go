package engine

import "time"

// SetMinFree changes the limit of free disk, and lets the next write look again.
func (e *Engine) SetMinFree(bytes int64) {
	e.disk.minFree.Store(bytes)
	e.disk.mu.Lock()
	defer e.disk.mu.Unlock()
	e.disk.checked = time.Time{}
}
