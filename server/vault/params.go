package vault

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"net/url"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Parameters are decoded as Vault's clients send them: a number may come as a string, a boolean as "true", a duration as
// seconds or as "30m", a list as an array or as one comma-separated string, and null is absent. Anything else of a wrong
// type is refused, with the parameter's name and never its value.

// fields are a request's parameters before they have types.
type fields map[string]json.RawMessage

// parseObject reads a JSON object; an empty body and null are no parameters.
func parseObject(body []byte) (fields, error) {
	body = trimJSON(body)
	if len(body) == 0 || string(body) == "null" {
		return fields{}, nil
	}
	if body[0] != '{' {
		return nil, refuse(errInvalid, "error parsing JSON: the body must be an object")
	}
	var f fields
	if err := json.Unmarshal(body, &f); err != nil {
		return nil, refuse(errInvalid, "error parsing JSON: %s", jsonFault(err))
	}
	return f, nil
}

// jsonFault describes what is wrong with a text without quoting more of it than one character.
func jsonFault(err error) string {
	if s, ok := err.(*json.SyntaxError); ok {
		return fmt.Sprintf("%s at byte %d", s.Error(), s.Offset)
	}
	return "not a JSON object"
}

// queryFields are the parameters of a request without a body.
func queryFields(q url.Values) fields {
	f := fields{}
	for name, values := range q {
		if len(values) == 1 {
			f[name] = quoted(values[0])
		} else if raw, err := marshal(values); err == nil {
			f[name] = raw
		}
	}
	return f
}

func quoted(s string) json.RawMessage {
	raw, err := marshal(s)
	if err != nil {
		return json.RawMessage(`""`)
	}
	return raw
}

// formObject turns a form into the JSON object that means the same.
func formObject(body []byte) ([]byte, error) {
	q, err := url.ParseQuery(string(body))
	if err != nil {
		return nil, refuse(errInvalid, "error parsing form data")
	}
	return marshal(queryFields(q))
}

// alias gives a parameter the name that it has now, unless it was given under that name too.
func (f fields) alias(old, now string) {
	if raw, ok := f[old]; ok {
		if _, both := f[now]; !both {
			f[now] = raw
		}
		delete(f, old)
	}
}

// decode fills a struct from its fields by their json tags and returns the names that it has no place for. What no field
// names stays as it is.
func (f fields) decode(into any) (unknown []string, err error) {
	known := map[string]bool{}
	if err := f.decodeStruct(reflect.ValueOf(into).Elem(), known); err != nil {
		return nil, err
	}
	for name := range f {
		if !known[name] {
			unknown = append(unknown, name)
		}
	}
	slices.Sort(unknown)
	return unknown, nil
}

func (f fields) decodeStruct(v reflect.Value, known map[string]bool) error {
	t := v.Type()
	for i := range t.NumField() {
		if t.Field(i).Anonymous {
			if err := f.decodeStruct(v.Field(i), known); err != nil {
				return err
			}
			continue
		}
		name := t.Field(i).Tag.Get("json")
		known[name] = true
		raw, ok := f[name]
		if !ok || string(raw) == "null" {
			continue
		}
		if err := setValue(v.Field(i), raw, name); err != nil {
			return err
		}
	}
	return nil
}

var durationType = reflect.TypeFor[time.Duration]()
var rawType = reflect.TypeFor[json.RawMessage]()

func setValue(v reflect.Value, raw json.RawMessage, name string) error {
	if v.Kind() == reflect.Pointer {
		p := reflect.New(v.Type().Elem())
		if err := setValue(p.Elem(), raw, name); err != nil {
			return err
		}
		v.Set(p)
		return nil
	}
	var err error
	switch {
	case v.Type() == rawType:
		v.SetBytes(raw)
	case v.Type() == durationType:
		var d time.Duration
		d, err = durationValue(raw)
		v.SetInt(int64(d))
	case v.Kind() == reflect.Struct:
		var sub fields
		if sub, err = parseObject(raw); err == nil {
			_, err = sub.decode(v.Addr().Interface())
		}
	default:
		err = setPlain(v, raw)
	}
	if err != nil {
		return refuse(errInvalid, "parameter %q: %s", name, err)
	}
	return nil
}

// setPlain sets the types that a query string or a form can carry, and maps of strings.
func setPlain(v reflect.Value, raw json.RawMessage) error {
	switch p := v.Addr().Interface().(type) {
	case *string:
		s, err := textValue(raw)
		*p = s
		return err
	case *bool:
		s, err := textValue(raw)
		if err != nil {
			return fmt.Errorf("must be true or false")
		}
		if *p, err = strconv.ParseBool(s); err != nil {
			return fmt.Errorf("must be true or false")
		}
		return nil
	case *int64:
		n, err := intValue(raw)
		*p = n
		return err
	case *[]string:
		list, err := listValue(raw)
		*p = list
		return err
	case *map[string]string:
		m, err := mapValue(raw)
		*p = m
		return err
	}
	panic("internal error: no decoder for parameters of type " + v.Type().String())
}

// textValue accepts a string, a number or a boolean.
func textValue(raw json.RawMessage) (string, error) {
	switch raw[0] {
	case '"':
		var s string
		if err := json.Unmarshal(raw, &s); err != nil {
			return "", fmt.Errorf("must be a string")
		}
		return s, nil
	case '{', '[':
		return "", fmt.Errorf("must be a string")
	}
	return string(raw), nil
}

func intValue(raw json.RawMessage) (int64, error) {
	s, err := textValue(raw)
	if err != nil {
		return 0, fmt.Errorf("must be a whole number")
	}
	n, err := strconv.ParseInt(strings.TrimSpace(s), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("must be a whole number")
	}
	return n, nil
}

func listValue(raw json.RawMessage) ([]string, error) {
	if raw[0] != '[' {
		s, err := textValue(raw)
		if err != nil {
			return nil, fmt.Errorf("must be a list of strings")
		}
		if s == "" {
			return nil, nil
		}
		list := strings.Split(s, ",")
		for i := range list {
			list[i] = strings.TrimSpace(list[i])
		}
		return list, nil
	}
	var items []json.RawMessage
	if err := json.Unmarshal(raw, &items); err != nil {
		return nil, fmt.Errorf("must be a list of strings")
	}
	list := make([]string, 0, len(items))
	for _, item := range items {
		s, err := textValue(item)
		if err != nil || string(item) == "null" {
			return nil, fmt.Errorf("must be a list of strings")
		}
		list = append(list, s)
	}
	return list, nil
}

func mapValue(raw json.RawMessage) (map[string]string, error) {
	var items map[string]json.RawMessage
	if raw[0] != '{' || json.Unmarshal(raw, &items) != nil {
		return nil, fmt.Errorf("must be an object of strings")
	}
	m := make(map[string]string, len(items))
	for k, item := range items {
		s, err := textValue(item)
		if err != nil || string(item) == "null" {
			return nil, fmt.Errorf("must be an object of strings")
		}
		m[k] = s
	}
	return m, nil
}

func durationValue(raw json.RawMessage) (time.Duration, error) {
	s, err := textValue(raw)
	if err != nil {
		return 0, fmt.Errorf("must be seconds or a duration like 30m")
	}
	return parseDuration(s)
}

const day = 24 * time.Hour

// parseDuration reads seconds, or a duration with units, days ("2d") included.
func parseDuration(s string) (time.Duration, error) {
	bad := fmt.Errorf("must be seconds or a duration like 30m")
	s = strings.TrimSpace(s)
	if s == "" {
		return 0, nil
	}
	if n, err := strconv.ParseInt(s, 10, 64); err == nil {
		return scaled(n, time.Second, bad)
	}
	if days, ok := strings.CutSuffix(s, "d"); ok {
		n, err := strconv.ParseInt(days, 10, 64)
		if err != nil {
			return 0, bad
		}
		return scaled(n, day, bad)
	}
	d, err := time.ParseDuration(s)
	if err != nil {
		return 0, bad
	}
	return d, nil
}

func scaled(n int64, unit time.Duration, bad error) (time.Duration, error) {
	if n > math.MaxInt64/int64(unit) || n < math.MinInt64/int64(unit) {
		return 0, bad
	}
	return time.Duration(n) * unit, nil
}

// trimJSON takes the blanks around a body away that JSON knows; it knows fewer than Unicode.
func trimJSON(b []byte) []byte { return bytes.Trim(b, " \t\r\n") }
