// Package seal keeps the keys that a store is encrypted with, and the one small file that guards them. It knows no
// HTTP, no log and no replication set.
//
// # Keys
//
//	share key     256 bit, split into shares by Shamir's scheme (one share: the key itself). It exists only while shares
//	              are put together
//	auto key      256 bit, from a file or an environment variable, for starts without people
//	root key      256 bit, minted once; sealed under the share key and, where there is one, under the auto key
//	keyring       terms, each a random id and a 256-bit key, sealed under the root key. The newest term seals, all open.
//	              Ids name keys, terms only order them; no key is ever removed
//	derived key   what values are sealed with: HKDF-SHA256 of a term's key with a fresh random salt each time a keyring
//	              is opened, and after 2^30 values
//
// # What is promised
//
//   - A nonce is never used twice under a key: a derived key belongs to one opening of one keyring in one process, and its
//     nonces count. A crash cannot repeat one, because the next opening has another salt.
//   - A sealed value opens only at its place: the place is the additional data of AES-256-GCM. A value that was changed,
//     or moved from elsewhere, is ErrTampered. A whole older file put back is not noticed here.
//   - The file is replaced as a whole, synced, before anything is sealed with a key that it alone holds.
//   - With fewer shares than the threshold nothing can be learned of the share key, whatever the computing power.
//   - A file that rotted, was tampered with, or is of a newer format is refused by name.
//
// # What is not
//
// Keys in use lie in the memory of the process, in plain; they are not kept from swap or core dumps. Whoever holds the
// shares, the recovery shares or the auto key, together with the file, reads everything.
//
// # Sealed value, version 1
//
//	offset  bytes  what
//	     0      1  version
//	     1      8  id of the term's key
//	     9     16  salt of the derived key
//	    25      8  counter, from 1
//	    33      n  ciphertext
//	  33+n     16  tag
//
// The nonce is the last 4 bytes of the salt and the counter. The place, given by who stores the value, is authenticated
// and not stored.
//
// # Seal file, version 1
//
// seal.json in a generation's directory, mode 0600, a JSON object:
//
//	format       1
//	type         "shamir", "file" or "env": what unseals at a start
//	shares       how many shares there are
//	threshold    how many of them make the share key
//	sealed_root  the root key under the share key; bound to shares and threshold
//	auto_root    the root key under the auto key; absent for shamir
//	source       path of the key file, or name of the variable, that it was made with: where tools look for the auto key
//	keyring      the keyring (JSON: root's check and terms) under the root key
//	sum          SHA-256 in hex over the rest, which tells rot from a wrong key
//
// Bytes are base64. Each sealed part is a nonce (12, random), the ciphertext and the tag (16): so few values are sealed
// under these keys that random nonces cannot meet.
package seal
