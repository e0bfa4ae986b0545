// Package e2e drives three real servers through the HTTP API with the stock
// Vault client and with what no client would send.
package e2e
