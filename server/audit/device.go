package audit

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// retryOpen is how long after a failed opening of its file a device tries again.
const retryOpen = time.Second

// Device writes entries to one file, or to standard output. It opens its file at the first entry.
type Device struct {
	options Options
	salt    []byte
	stdout  io.Writer

	mu     sync.Mutex // guards what follows: one line at a time
	file   *os.File
	failed error // of the last opening
	tried  time.Time
	torn   bool // the last line may be half written
	closed bool
}

// NewDevice makes a device; stdout is where a device of that name writes.
func NewDevice(o *Options, salt []byte, stdout io.Writer) *Device {
	return &Device{options: *o, salt: salt, stdout: stdout}
}

// Hash returns the form in which this device shows a text.
func (d *Device) Hash(text string) string { return Hash(d.salt, text) }

// Log records an entry. Once it has returned nil the line is the operating system's; it is not synced, as in Vault. A device that
// was closed is no longer asked for, and takes an entry without recording it.
func (d *Device) Log(e *Entry) error {
	text, err := d.options.encode(d.salt, e)
	if err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil
	}
	if err := d.openLocked(); err != nil {
		return err
	}
	if d.torn {
		text = append([]byte("\n"), text...)
	}
	if _, err := d.writerLocked().Write(text); err != nil {
		d.torn = true
		return fmt.Errorf("write to audit device %s: %w", d.options.FilePath, err)
	}
	d.torn = false
	return nil
}

func (d *Device) writerLocked() io.Writer {
	if d.options.FilePath == Stdout {
		return d.stdout
	}
	return d.file
}

func (d *Device) openLocked() error {
	if d.file != nil || d.options.FilePath == Stdout {
		return nil
	}
	if d.failed != nil && time.Since(d.tried) < retryOpen {
		return d.failed
	}
	d.tried = time.Now()
	d.file, d.failed = openFile(&d.options)
	return d.failed
}

// Try records an entry as the first one of a device that is to be enabled, and says what is wrong with it: some files can be opened
// and not be written. A file whose mode is to be left alone must be there.
func (d *Device) Try(e *Entry) error {
	if d.options.FilePath != Stdout && d.options.Mode == 0 {
		if _, err := os.Lstat(d.options.FilePath); err != nil {
			return fmt.Errorf("mode 0000 leaves the mode of an existing file alone: make the file first, or take mode 0600 or 0640: %w", err)
		}
	}
	return d.Log(e)
}

// Reopen opens the file by its name again: what was there may have been renamed. While the new one cannot be opened the old one is
// written.
func (d *Device) Reopen() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed || d.options.FilePath == Stdout {
		return nil
	}
	fresh, err := openFile(&d.options)
	if err != nil {
		return err
	}
	old := d.file
	d.file, d.failed, d.torn = fresh, nil, false
	if old != nil {
		return old.Close()
	}
	return nil
}

// Close ends the device.
func (d *Device) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed = true
	if d.file == nil {
		return nil
	}
	err := d.file.Close()
	d.file = nil
	return err
}

// openFile opens or makes a device's file. An existing one must be a plain file, and empty or an audit log: entries appended to
// a file of any other kind could damage it or change what it says.
func openFile(o *Options) (*os.File, error) {
	if o.special() {
		return nil, fmt.Errorf("audit device file %s cannot be used: what is below %s belongs to the kernel: name a file elsewhere, or stdout",
			o.FilePath, strings.Join(kernelDirs, ", "))
	}
	mode := o.Mode
	if mode == 0 {
		mode = 0o600
	}
	// Not following links, and not waiting for the other end of a pipe.
	f, err := os.OpenFile(o.FilePath, os.O_RDWR|os.O_APPEND|os.O_CREATE|unix.O_NOFOLLOW|unix.O_NONBLOCK, mode)
	if err != nil {
		if errors.Is(err, unix.ELOOP) {
			err = errors.New("it is a symbolic link: name the file itself")
		}
		return nil, fmt.Errorf("audit device file %s cannot be opened: %w", o.FilePath, err)
	}
	if err := prepareFile(f, o); err != nil {
		return nil, errors.Join(fmt.Errorf("audit device file %s cannot be used: %w", o.FilePath, err), f.Close())
	}
	return f, nil
}

func prepareFile(f *os.File, o *Options) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return errors.New("it is no plain file")
	}
	if info.Size() > 0 {
		head := make([]byte, len(lineStart))
		if _, err := f.ReadAt(head, 0); err != nil && err != io.EOF {
			return err
		}
		if string(head) != lineStart {
			return errors.New("it holds something else than this device's audit log: name a new file")
		}
	}
	if o.Mode != 0 && info.Mode().Perm() != o.Mode {
		return f.Chmod(o.Mode)
	}
	return nil
}

// kernelDirs hold no files of a disk: what is written there acts.
var kernelDirs = []string{"/proc", "/sys", "/dev"}

func (o *Options) special() bool { return slices.ContainsFunc(kernelDirs, o.Inside) }

// Inside reports whether a device would write below dir, links in the way to it resolved.
func (o *Options) Inside(dir string) bool {
	if o.FilePath == Stdout || dir == "" {
		return false
	}
	return below(o.FilePath, dir) || below(real(filepath.Dir(o.FilePath)), real(dir))
}

func real(path string) string {
	if resolved, err := filepath.EvalSymlinks(path); err == nil {
		path = resolved
	}
	if abs, err := filepath.Abs(path); err == nil {
		return abs
	}
	return path
}

func below(path, dir string) bool {
	rel, err := filepath.Rel(dir, path)
	return err == nil && rel != ".." && !strings.HasPrefix(rel, "../")
}
