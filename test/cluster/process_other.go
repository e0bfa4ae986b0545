//go:build !linux

package cluster

import "errors"

func startOnOwnThread(p *process) error {
	if err := p.cmd.Start(); err != nil {
		return err
	}
	go func() {
		p.err = p.cmd.Wait()
		p.log.Close()
		close(p.done)
	}()
	return nil
}

// RssAnon is known on Linux only.
func (n *Node) RssAnon() (int64, error) { return 0, errors.New("known on Linux only") }
