package main

import (
	"fmt"
	"io"
)

// sealStatus is what a sealed node says of its seal.
type sealStatus struct {
	Type        string `json:"type"`
	Initialized bool   `json:"initialized"`
	Threshold   int    `json:"t"`
	Shares      int    `json:"n"`
	Progress    int    `json:"progress"`
	ToDo        string `json:"to_do"` // ours, not the node's
}

func (s *sealStatus) print(w io.Writer) {
	row(w, "Seal", s.Type)
	if s.Initialized {
		row(w, "Unseal progress", fmt.Sprintf("%d/%d", s.Progress, s.Threshold))
	}
	row(w, "To do", s.ToDo)
}

// advice is how the node comes to answer requests.
func (s *sealStatus) advice() string {
	keys := func(kind string) string {
		if left := s.Threshold - s.Progress; left != 1 {
			return fmt.Sprintf("%d %s keys", left, kind)
		}
		return "1 " + kind + " key"
	}
	switch {
	case !s.Initialized:
		return "initialise it: vault operator init"
	case s.Type == "shamir":
		return "give it " + keys("unseal") + ": vault operator unseal"
	}
	return "restart it; if it stays sealed its log says why. Or give it " + keys("recovery") + ": vault operator unseal"
}
