package devstack

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	osuser "os/user"
	"path/filepath"
	"strconv"
	"syscall"
)

// user is whom Postgres runs as. The zero value is ourselves.
type user struct {
	name     string
	uid, gid uint32
	caps     []uintptr // capabilities it needs to get to its data; Linux only
}

// other is whether it is somebody other than ourselves.
func (u user) other() bool { return u.name != "" }

// userFor chooses whom a server on data runs as. Anyone but root runs it as themselves. Root cannot: the owner of
// what is there does, or else the user that packages make for Postgres, or else nobody.
func userFor(data string) (user, error) {
	info, err := os.Stat(data)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return user{}, err
	}
	if os.Geteuid() != 0 {
		if err == nil && !(user{}).owns(info) {
			return user{}, fmt.Errorf("%s belongs to another user (uid %d): run as that user, or as root, or choose another directory", data, owner(info).Uid)
		}
		return user{}, nil
	}
	if err == nil && owner(info).Uid != 0 {
		is := owner(info)
		return user{name: "uid " + strconv.Itoa(int(is.Uid)), uid: is.Uid, gid: is.Gid}, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		found, err := osuser.Lookup(name)
		if err != nil {
			continue
		}
		uid, err1 := strconv.ParseUint(found.Uid, 10, 32)
		gid, err2 := strconv.ParseUint(found.Gid, 10, 32)
		if err := errors.Join(err1, err2); err != nil {
			continue
		}
		return user{name: name, uid: uint32(uid), gid: uint32(gid)}, nil
	}
	return user{}, errors.New("Postgres does not run as root, and there is neither a user postgres nor a user nobody: run this as another user")
}

func owner(info fs.FileInfo) *syscall.Stat_t { return info.Sys().(*syscall.Stat_t) }

func (u user) owns(info fs.FileInfo) bool {
	if u.other() {
		return owner(info).Uid == u.uid
	}
	return int(owner(info).Uid) == os.Geteuid()
}

// own gives path to u.
func (u user) own(path string) error {
	if !u.other() {
		return nil
	}
	return os.Lchown(path, int(u.uid), int(u.gid))
}

// reach makes sure that u can walk to dir. Below a closed directory, as /root is, u gets the capability to read where
// it may not, and nothing more of root's power; where that cannot be had, the error names the closed directory.
func (u *user) reach(dir string) error {
	if !u.other() {
		return nil
	}
	for parent := filepath.Dir(dir); ; parent = filepath.Dir(parent) {
		info, err := os.Stat(parent)
		if err != nil {
			return err
		}
		open := info.Mode()&0o001 != 0 ||
			info.Mode()&0o010 != 0 && owner(info).Gid == u.gid ||
			info.Mode()&0o100 != 0 && owner(info).Uid == u.uid
		if !open {
			var ok bool
			if u.caps, ok = capsToWalk(); !ok {
				return fmt.Errorf("Postgres does not run as root but as %s, who cannot get to %s because %s is closed (%v): choose another directory, or chmod o+x %s",
					u.name, dir, parent, info.Mode().Perm(), parent)
			}
			return nil
		}
		if parent == filepath.Dir(parent) {
			return nil
		}
	}
}
