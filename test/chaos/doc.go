// Package chaos runs real servers while a plan, drawn from a seed, breaks and
// re-arranges them under load, and judges everything that their clients saw.
//
// A round is one topology of three to five processes. Clients write, read,
// check and set, delete and list, on the primary and by way of performance
// secondaries, and note for each operation when it was called, when it
// returned and how it ended: done, certainly not done, or unknown. Meanwhile
// the plan's faults and role changes happen. At the end all faults are healed,
// everyone joins the last primary, and the notes are held against the model:
//
//   - linearizability of each key on the primary, over all reigns: a promotion
//     may take back a tail of the writes of the reign before, exactly those
//     that the new primary says are lost, and none after a planned change;
//   - a performance secondary shows a prefix, never goes back, and shows what
//     an index token names;
//   - what was refused is never seen;
//   - a primary that has said that it is fenced acknowledges nothing until an
//     operator demotes it;
//   - a snapshot of the primary is the state of one moment, with all that was
//     acknowledged before it was asked for;
//   - what was acknowledged while the primary waited for all secondaries of a
//     set is not lost by the promotion of one of them;
//   - all clusters end with the same roots and the same records, and
//     `lockstep check` finds their files in order.
//
// The seed repeats the plan: topology, operations of each client, faults and
// role changes in order. How operations and steps interleave in time is up to
// the machine. With -more a plan gives up some of its steps for others: a
// former primary that is told of its successor before it is demoted, the
// command lockstep failover, planned and forced, and snapshots, which are
// restored and held against the writes when the round has ended. In every
// second such round the primary waits for all its secondaries.
package chaos
