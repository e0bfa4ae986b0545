package cluster

import (
	"io/fs"
	"os"
	"path/filepath"
)

// CopyTree copies a directory with the rights of its files, as an operator does who keeps a copy of a stopped server's data.
func CopyTree(to, from string) error {
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		return err
	}
	return filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		inside, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		return os.Chmod(filepath.Join(to, inside), info.Mode().Perm())
	})
}
