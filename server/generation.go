package server

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/lockstepdb/lockstep/internal/seal"
	"github.com/lockstepdb/lockstep/server/engine"
)

// A generation is a whole store in a directory of its own, gen-NNNN. The file
// CURRENT names the live one, and the rename that replaces CURRENT is the one
// step that decides:
//
//	gen-0002.new     being made; never live
//	gen-0002         complete
//	CURRENT.new      written and synced
//	CURRENT          renamed                      ← the new generation is live
//	trash/<time>     the old one, moved
//
// Whatever instant the process dies at, tidy finds the old or the new
// generation live and completes or undoes the rest.

const (
	generationPrefix = "gen-"
	unfinishedSuffix = ".new"
	roleName         = "role.json"
	roleFormat       = 1
)

// roleFile is what a generation's role.json holds: what it takes to open it.
type roleFile struct {
	Format    int    `json:"format"`
	Log       string `json:"log"` // "writer" or "verbatim"
	Secondary bool   `json:"secondary"`
}

const (
	writerLog   = "writer"
	verbatimLog = "verbatim"
)

// Generation is a store of a data directory.
type Generation struct {
	Name      string
	Dir       string
	Role      engine.Role
	Secondary bool // made by secondary/enable: what is damaged in it can be had from the primary
}

// Current returns the live generation; fs.ErrNotExist when the directory has
// none yet.
func (d *DataDir) Current() (*Generation, error) {
	b, err := os.ReadFile(filepath.Join(d.Path, currentName))
	if err != nil {
		return nil, fmt.Errorf("find the live generation: %w", err)
	}
	name := strings.TrimSpace(string(b))
	if _, ok := generationNumber(name); !ok {
		return nil, fmt.Errorf("%s: %q names no generation: write the name of the live gen-NNNN into it", filepath.Join(d.Path, currentName), name)
	}
	return d.readGeneration(name)
}

func (d *DataDir) readGeneration(name string) (*Generation, error) {
	g := &Generation{Name: name, Dir: filepath.Join(d.Path, name)}
	file := filepath.Join(g.Dir, roleName)
	b, err := os.ReadFile(file)
	if err != nil {
		// Not wrapped: a generation that CURRENT names and that is gone must never pass for an empty directory.
		return nil, fmt.Errorf("%s names generation %s, which cannot be read: %v", filepath.Join(d.Path, currentName), name, err)
	}
	if g.Role, g.Secondary, err = decodeRole(b); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return g, nil
}

// decodeRole reads what fill wrote.
func decodeRole(b []byte) (role engine.Role, secondary bool, err error) {
	var r roleFile
	if err := json.Unmarshal(b, &r); err != nil {
		return 0, false, err
	}
	switch {
	case r.Format > roleFormat:
		return 0, false, fmt.Errorf("format version %d is newer than this program's, %d: use a newer lockstep", r.Format, roleFormat)
	case r.Format < 1:
		return 0, false, errors.New("no format version")
	case r.Log == writerLog:
		return engine.Writer, r.Secondary, nil
	case r.Log == verbatimLog:
		return engine.Verbatim, r.Secondary, nil
	}
	return 0, false, fmt.Errorf("unknown kind of log %q", r.Log)
}

// Prepare makes a new generation beside the live one, complete and synced, sealed with keys. It
// is not live until Adopt. more, unless nil, may still work in its directory before it is complete.
func (d *DataDir) Prepare(id engine.Identity, role engine.Role, secondary bool, notes map[string][]byte, keys *seal.Opened, more func(dir string) error) (*Generation, error) {
	name, err := d.nextName()
	if err != nil {
		return nil, err
	}
	unfinished := filepath.Join(d.Path, name+unfinishedSuffix)
	if err := os.RemoveAll(unfinished); err != nil {
		return nil, fmt.Errorf("make a generation: %w", err)
	}
	err = d.fill(unfinished, id, role, secondary, notes, keys)
	if err == nil && more != nil {
		err = more(unfinished)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("make generation %s: %w", name, err), os.RemoveAll(unfinished))
	}
	if err := renameSynced(unfinished, filepath.Join(d.Path, name)); err != nil {
		return nil, fmt.Errorf("make generation %s: %w", name, err)
	}
	keys.MovedTo(filepath.Join(d.Path, name))
	return d.readGeneration(name)
}

// Rewrite says how a generation is to be opened from the next time on: in which role, and whether a primary holds what it holds. One rename decides.
func (d *DataDir) Rewrite(g *Generation, role engine.Role, secondary bool) error {
	file := filepath.Join(g.Dir, roleName)
	d.at("write role")
	if err := writeSynced(file+unfinishedSuffix, encodeRole(role, secondary)); err != nil {
		return fmt.Errorf("change the role of generation %s: %w", g.Name, err)
	}
	d.at("rename role")
	if err := renameSynced(file+unfinishedSuffix, file); err != nil {
		return fmt.Errorf("change the role of generation %s: %w", g.Name, err)
	}
	d.at("role changed")
	return nil
}

// opensAs reports whether a generation's role file says so, which does not say that it does after a crash.
func (d *DataDir) opensAs(g *Generation, role engine.Role, secondary bool) bool {
	now, err := d.readGeneration(g.Name)
	return err == nil && now.Role == role && now.Secondary == secondary
}

func encodeRole(role engine.Role, secondary bool) []byte {
	r := roleFile{Format: roleFormat, Log: writerLog, Secondary: secondary}
	if role == engine.Verbatim {
		r.Log = verbatimLog
	}
	b, err := json.Marshal(r)
	if err != nil {
		panic("internal error: " + err.Error()) // our own type always encodes
	}
	return append(b, '\n')
}

func (d *DataDir) fill(dir string, id engine.Identity, role engine.Role, secondary bool, notes map[string][]byte, keys *seal.Opened) error {
	d.at("create")
	if err := engine.CreateSealed(dir, id, notes, keys.Keyring()); err != nil {
		return err
	}
	if err := keys.Save(dir); err != nil {
		return err
	}
	d.at("role")
	if err := writeSynced(filepath.Join(dir, roleName), encodeRole(role, secondary)); err != nil {
		return err
	}
	d.at("rename generation")
	return syncDir(dir)
}

// Adopt makes a prepared generation the live one.
func (d *DataDir) Adopt(g *Generation) error {
	file := filepath.Join(d.Path, currentName)
	d.at("write CURRENT")
	if err := writeSynced(file+unfinishedSuffix, []byte(g.Name+"\n")); err != nil {
		return fmt.Errorf("switch to generation %s: %w", g.Name, err)
	}
	d.at("rename CURRENT")
	if err := renameSynced(file+unfinishedSuffix, file); err != nil {
		return fmt.Errorf("switch to generation %s: %w", g.Name, err)
	}
	d.at("adopted")
	return nil
}

// names reports whether CURRENT names g, which does not say that it does so after a crash.
func (d *DataDir) names(g *Generation) bool {
	live, err := d.Current()
	return err == nil && live.Name == g.Name
}

// Tidy ends what a crash left half done: unfinished generations are removed,
// complete ones that are not live go to the trash. A directory whose only generation was never named adopts it: it was
// complete before CURRENT was to be written.
func (d *DataDir) Tidy() error {
	if err := d.knowsEverything(); err != nil {
		return err
	}
	if err := d.adoptOnly(); err != nil {
		return err
	}
	if err := d.removeUnfinished(); err != nil {
		return fmt.Errorf("tidy data directory: %w", err)
	}
	live, err := d.Current()
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return d.tidyOthers(live)
}

// knowsEverything refuses a directory that is another program's: one without
// CURRENT in which something foreign stands.
func (d *DataDir) knowsEverything() error {
	entries, err := os.ReadDir(d.Path)
	if err != nil {
		return fmt.Errorf("read data directory: %w", err)
	}
	var foreign string
	for _, e := range entries {
		switch name := e.Name(); {
		case name == currentName:
			return nil
		case name == lockName, name == trashName, name == archiveName, name == devKeyName, name == "lost+found", strings.HasPrefix(name, currentName):
		case strings.HasPrefix(name, generationPrefix):
		default:
			foreign = name
		}
	}
	if foreign != "" {
		return fmt.Errorf("data directory %s is neither empty nor Lockstep's: it holds %s; name an empty directory", d.Path, foreign)
	}
	return nil
}

func (d *DataDir) adoptOnly() error {
	if _, err := os.Stat(filepath.Join(d.Path, currentName)); err == nil || !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	names, err := d.generations()
	if err != nil || len(names) == 0 {
		return err
	}
	if len(names) > 1 {
		return fmt.Errorf("data directory %s has lost its file %s and holds %s: write the name of the live one into %s",
			d.Path, currentName, strings.Join(names, " and "), currentName)
	}
	g, err := d.readGeneration(names[0])
	if err != nil {
		return err
	}
	return d.Adopt(g)
}

func (d *DataDir) removeUnfinished() error {
	entries, err := os.ReadDir(d.Path)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), unfinishedSuffix) {
			if err := os.RemoveAll(filepath.Join(d.Path, e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

func (d *DataDir) tidyOthers(live *Generation) error {
	names, err := d.generations()
	if err != nil {
		return err
	}
	liveNumber, _ := generationNumber(live.Name)
	for _, name := range names {
		n, _ := generationNumber(name)
		if n == liveNumber {
			continue
		}
		if err := d.discard(name); err != nil {
			return fmt.Errorf("tidy data directory: %w", err)
		}
	}
	return nil
}

// generations returns the names of complete generations, oldest first.
func (d *DataDir) generations() ([]string, error) {
	entries, err := os.ReadDir(d.Path)
	if err != nil {
		return nil, fmt.Errorf("read data directory: %w", err)
	}
	var names []string
	for _, e := range entries {
		if _, ok := generationNumber(e.Name()); ok && e.IsDir() {
			names = append(names, e.Name())
		}
	}
	slices.SortFunc(names, func(a, b string) int {
		na, _ := generationNumber(a)
		nb, _ := generationNumber(b)
		return na - nb
	})
	return names, nil
}

// nextName returns a name above all that were ever live: the trash keeps
// names with their numbers, and the live one is the highest of the rest.
func (d *DataDir) nextName() (string, error) {
	names, err := d.generations()
	if err != nil {
		return "", err
	}
	next := 1
	if len(names) > 0 {
		last, _ := generationNumber(names[len(names)-1])
		next = last + 1
	}
	return fmt.Sprintf("%s%04d", generationPrefix, next), nil
}

func generationNumber(name string) (int, bool) {
	digits, ok := strings.CutPrefix(name, generationPrefix)
	if !ok || len(digits) < 4 || len(digits) > 9 {
		return 0, false
	}
	for _, c := range digits {
		if c < '0' || c > '9' {
			return 0, false
		}
	}
	n, err := strconv.Atoi(digits)
	return n, err == nil && n > 0
}
