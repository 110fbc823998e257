package testserver

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
)

// place is where a server lives: a folder and a port, which stay its own while it is down, and the user that it runs as.
type place struct {
	dir   string
	port  int
	user  *syscall.Credential // nil: the current one
	claim net.PacketConn      // keeps the port
}

// newPlace makes the place of a server of some kind. If it mustn't run as root, and we are, it gets another user.
func newPlace(kind string, mayBeRoot bool) (_ *place, err error) {
	p := &place{}
	if !mayBeRoot {
		if p.user, err = unprivileged(); err != nil {
			return nil, err
		}
	}
	if p.port, p.claim, err = ClaimPort(); err != nil {
		return nil, err
	}
	if p.dir, err = folder(kind, p.user); err != nil {
		return nil, errors.Join(err, p.claim.Close())
	}
	return p, nil
}

func (p *place) address() string { return address(p.port) }

func (p *place) logFile() string { return filepath.Join(p.dir, "log") }

// free gives the port back and removes the folder.
func (p *place) free() {
	_ = p.claim.Close()
	_ = os.RemoveAll(p.dir)
}

func address(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

// ClaimPort finds a free TCP port and keeps it from other servers of ours, of this and other processes, by holding the UDP
// port of the same number. The numbers are below those that systems give to outgoing connections, one of which could take
// the port while its server is down.
func ClaimPort() (port int, claim net.PacketConn, err error) {
	for range 1000 {
		port = 20000 + rand.IntN(10000)
		if claim, err = net.ListenPacket("udp", address(port)); err != nil {
			continue
		}
		var listener net.Listener
		if listener, err = net.Listen("tcp", address(port)); err == nil {
			return port, claim, listener.Close()
		}
		_ = claim.Close()
	}
	return 0, nil, fmt.Errorf("testserver: find a free port: %w", err)
}

// unprivileged returns the user that servers run as: nil for the current one, unless that is root.
func unprivileged() (*syscall.Credential, error) {
	if os.Getuid() != 0 {
		return nil, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
		gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
		if err := errors.Join(err1, err2); err != nil {
			return nil, fmt.Errorf("testserver: the ids of user %s: %w", name, err)
		}
		return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
	}
	return nil, errors.New("testserver: running as root, and there is neither a user postgres nor nobody to run PostgreSQL as")
}

// folder makes a temporary folder that user owns and can reach.
func folder(kind string, user *syscall.Credential) (string, error) {
	parent := os.TempDir()
	if user != nil && !reachable(parent) {
		parent = "/tmp"
	}
	dir, err := os.MkdirTemp(parent, "endstate-"+kind+"-")
	if err != nil {
		return "", fmt.Errorf("testserver: make a temporary folder: %w", err)
	}
	if user != nil {
		if err := os.Chown(dir, int(user.Uid), int(user.Gid)); err != nil {
			return "", errors.Join(fmt.Errorf("testserver: hand over a temporary folder: %w", err), os.Remove(dir))
		}
	}
	return dir, nil
}

// reachable reports whether everyone may pass through dir and all the folders that it is in.
func reachable(dir string) bool {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return false
	}
	for ; ; dir = filepath.Dir(dir) {
		info, err := os.Stat(dir)
		if err != nil || info.Mode()&0o001 == 0 {
			return false
		}
		if dir == filepath.Dir(dir) {
			return true
		}
	}
}
