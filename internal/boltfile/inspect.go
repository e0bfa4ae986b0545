package boltfile

import (
	"os"
)

func (f *File) inspect(fd *os.File) error {
	return nil
}
