// Package buildinfo says which build of Lockstep this is.
package buildinfo

import (
	"runtime"
	"runtime/debug"
)

// Set by the linker (-X); what is empty is taken from what the go command
// recorded in the binary.
var (
	Version = "0.1.0-dev"
	Commit  = ""
	Date    = ""
)

// Info is what a build knows of itself.
type Info struct {
	Version string `json:"version"`
	Commit  string `json:"commit"` // "unknown" when the binary was built outside a checkout
	Date    string `json:"build_date,omitempty"`
	Go      string `json:"go"`
	Target  string `json:"target"`
}

// Read returns the facts of this build.
func Read() Info {
	info := Info{Version: Version, Commit: Commit, Date: Date, Go: runtime.Version(), Target: runtime.GOOS + "/" + runtime.GOARCH}
	if recorded, ok := debug.ReadBuildInfo(); ok {
		fillFrom(&info, recorded.Settings)
	}
	if info.Commit == "" {
		info.Commit = "unknown"
	}
	return info
}

func fillFrom(info *Info, settings []debug.BuildSetting) {
	recorded := make(map[string]string, len(settings))
	for _, s := range settings {
		recorded[s.Key] = s.Value
	}
	if info.Commit == "" && recorded["vcs.revision"] != "" {
		info.Commit = recorded["vcs.revision"]
		if recorded["vcs.modified"] == "true" {
			info.Commit += "+changes"
		}
	}
	if info.Date == "" {
		info.Date = recorded["vcs.time"]
	}
}
