// Package token mints and verifies activation tokens: what a primary hands to an operator and a future secondary redeems for its certificate.
//
// A token is a JSON Web Token (RFC 7519) of three base64url parts, signed with Ed25519 (alg EdDSA). Its payload:
//
//	jti       id of the token, 128 random bits in hex: single use is a fact that the primary keeps, not one that the token can prove
//	iss       id of the replication set
//	sub       id that the operator gave the secondary
//	aud       kind of the set: "dr" or "performance"
//	iat, nbf, exp   Unix seconds; all required
//	type      always "wrapping", so that clients know what to do with it
//	addr      API address of the primary; may be empty
//	accessor  always "", as such clients decode it
//	ca        SHA-256 of the set's CA certificate (DER), in hex
//	epoch     fork of the epoch that signed it, in hex; may be empty
//
// The package promises that Verify accepts nothing that Mint did not make with the matching key for that set and kind, that it looks at no token
// longer than MaxSize, and that no error quotes any part of a token. It knows no server, no clock and no storage.
//
// What a stolen token can do: until it expires or is redeemed (whichever is first), whoever holds it can enrol one secondary under the id it names, and so
// receive what that kind of secondary receives. A redeemed token is worth nothing. Claims hold no secret.
package token
