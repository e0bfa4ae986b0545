package conformance

import (
	"strings"
	"testing"
)

func TestALineThatSaysNothingIsRefusedWithItsPlace(t *testing.T) {
	const head = "row 1.1:67 -- a row\nat primary by nobody\n"
	for name, text := range map[string]string{
		"a row without a title":               "row 1.1:67\n",
		"an id that is none":                  "row 1.1 -- a row\n",
		"a request before the first row":      "GET sys/health\n200\n",
		"a request to nobody":                 "row 1.1:67 -- a row\nGET sys/health\n200\n",
		"a request without a status":          head + "GET sys/health\n",
		"an answer before the request":        head + "200\n",
		"a place without a shape":             head + "GET sys/health\n200\ndata.mode\n",
		"a part that nobody builds":           head + "pending later: it\nGET sys/health\n200\n",
		"an expectation of a part of nobody":  head + "GET sys/health\n200\ndata string (pending later)\n",
		"something done that nobody can do":   head + "run about\n",
		"a header without a value":            head + "with X-Vault-Token\nGET sys/health\n200\n",
		"something kept without a place":      head + "GET sys/health\n200\nkeep token\n",
		"a decoding without a password":       head + "GET sys/health\n200\ndecode token encoded_token\n",
		"a node of a kind that is none":       "node a great\n",
		"a difference without a reason":       head + "differs:\nGET sys/health\n200\n",
		"until with something else than that": head + "until run kill\n",
	} {
		if _, err := parse("t.table", text); err == nil || !strings.Contains(err.Error(), "t.table:") {
			t.Errorf("%s: got %v, want an error with the place", name, err)
		}
	}
	tab, err := parse("t.table", head+"with A: b\nguarded sudo\nuntil GET sys/health {\"a\":1}\n200|299\n2.2:255 data.mode = \"x\"  (pending seal)\nkeep m data.mode\n")
	if err != nil {
		t.Fatal(err)
	}
	s := tab.rows[0].steps[0]
	if s.guard != "sudo" || !s.until || len(s.status) != 2 || s.body != `{"a":1}` || len(s.headers) != 1 ||
		s.expect[0] != (expectation{"t.table:7", 7, "2.2:255", "data.mode", `= "x"`, "seal"}) || s.keep[0] != [2]string{"m", "data.mode"} {
		t.Errorf("got %+v", s)
	}
}
