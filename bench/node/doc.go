// Package node runs real Lockstep servers for measuring: the binary that was built, a configuration as an operator
// writes it, a data directory on a disk, the product's defaults for everything that is not an address.
package node
