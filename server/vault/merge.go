package vault

import (
	"bytes"
	"encoding/json"
	"fmt"
)

// mergePatch applies a JSON merge patch (RFC 7396) to an object. Numbers keep their digits.
func mergePatch(target, patch []byte) ([]byte, error) {
	t, err := decodeNumbers(target)
	if err != nil {
		return nil, err
	}
	p, err := decodeNumbers(patch)
	if err != nil {
		return nil, err
	}
	return marshal(merged(t, p))
}

func merged(target, patch any) any {
	p, ok := patch.(map[string]any)
	if !ok {
		return patch
	}
	t, ok := target.(map[string]any)
	if !ok {
		t = map[string]any{}
	}
	for k, v := range p {
		if v == nil {
			delete(t, k)
		} else {
			t[k] = merged(t[k], v)
		}
	}
	return t
}

func decodeNumbers(text []byte) (any, error) {
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return nil, fmt.Errorf("decode a stored JSON object: %w", err)
	}
	return v, nil
}
