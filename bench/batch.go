package main

import "context"

// batches would measure calls that write many records at once.
func (b *bench) batches(context.Context) error {
	b.missing("batch/100", "the API has no call that writes several records (docs/api.md)")
	return nil
}
