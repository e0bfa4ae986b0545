// Package replicationpb is the conversation between clusters, generated from
// proto/replication.proto, which describes it. It holds nothing else; package
// server/replication checks what comes in before anything is done with it.
package replicationpb
