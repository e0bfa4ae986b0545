package main

import (
	"context"
	"fmt"
	"io"
	"slices"
)

// Sets of scenarios.
const (
	setQuick = "quick"
	setAll   = "all"
	setLarge = "large"
)

// scenario is a group of rows that share servers.
type scenario struct {
	rows []string // ids, for -only and -list
	sets []string
	run  func(*bench, context.Context) error
}

// scenarios are in the order in which they are measured.
var scenarios []scenario

func init() { // run functions ask for the rows of scenarios
	scenarios = []scenario{
		{writeRows, []string{setQuick, setAll}, (*bench).writes},
		{slices.Concat(replicatedRows, otherRows), []string{setQuick, setAll}, (*bench).replicated},
		{securedRows, []string{setQuick}, (*bench).secured},
		{slices.Concat(securedRows, moreSecuredRows), []string{setAll}, (*bench).secured},
		{[]string{"batch/100"}, []string{setQuick, setAll}, (*bench).batches},
		{peerRows(), []string{setAll}, (*bench).peersBeside},
		{[]string{"catch-up"}, []string{setAll}, (*bench).catchUp},
		{millionRows, []string{setAll}, (*bench).million},
		{[]string{"promote"}, []string{setAll}, (*bench).promote},
		{diffRows(), []string{setAll, setLarge}, (*bench).diffs},
		{recoveryRows(), []string{setAll}, (*bench).recovery},
		{wanRows(), []string{setAll}, (*bench).wan},
		{[]string{"burst"}, []string{setAll}, (*bench).bursts},
		{fanoutRows(), []string{setAll}, (*bench).fanout},
		{growthRows(), []string{setLarge}, (*bench).growth},
	}
}

// runsScenarioOf reports whether the chosen set measures a row.
func (b *bench) runsScenarioOf(id string) bool {
	return slices.ContainsFunc(scenarios, func(s scenario) bool { return slices.Contains(s.rows, id) && slices.Contains(s.sets, b.set) })
}

// all measures limits, the rows of the set, and limits again. A scenario that fails does not keep the others from being measured.
func (b *bench) all(ctx context.Context) error {
	if err := b.measureLimits(ctx); err != nil {
		return err
	}
	var failed []string
	for _, s := range scenarios {
		if !slices.Contains(s.sets, b.set) || !b.wants(s.rows...) {
			continue
		}
		if err := s.run(b, ctx); err != nil {
			if ctx.Err() != nil {
				return fmt.Errorf("interrupted: %w", err)
			}
			fmt.Fprintln(b.words, "failed:", err)
			b.missing(s.rows[0], err.Error())
			failed = append(failed, err.Error())
		}
		b.watched = nil
	}
	if err := b.measureLimits(ctx); err != nil {
		return err
	}
	if len(failed) > 0 {
		return fmt.Errorf("%d scenarios failed, the first with: %s", len(failed), failed[0])
	}
	return nil
}

// list prints what there is to measure.
func list(out io.Writer) error {
	for _, s := range scenarios {
		for _, id := range s.rows {
			if _, err := fmt.Fprintf(out, "%-36s %v\n", id, s.sets); err != nil {
				return err
			}
		}
	}
	return nil
}
