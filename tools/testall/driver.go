package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// driver is a driver of database/sql that tests can be run through.
type driver struct {
	module string
	// file takes another's place in internal/dbtest, whose module doesn't require the driver's. Empty: it does.
	file, place string
}

const driverFiles = "finalize/interop/drivers"

var drivers = map[string]driver{
	"pgx":      {module: "github.com/jackc/pgx/v5"},
	"lib/pq":   {"github.com/lib/pq", driverFiles + "/libpq/postgresdriver.go", "postgresdriver.go"},
	"pgdriver": {"github.com/uptrace/bun/driver/pgdriver", driverFiles + "/pgdriver/postgresdriver.go", "postgresdriver.go"},
	"modernc":  {module: "modernc.org/sqlite"},
	"mattn":    {"github.com/mattn/go-sqlite3", driverFiles + "/mattn/sqlitedriver.go", "sqlitedriver.go"},
}

// driverNamed returns a driver by the name that -driver gives it, none for none.
func driverNamed(name string) (driver, error) {
	d, ok := drivers[name]
	if !ok && name != "" {
		return d, fmt.Errorf("-driver is %q; there are %s", name, strings.Join(slices.Sorted(maps.Keys(drivers)), ", "))
	}
	return d, nil
}

// choose has the tests go through a driver. It wants cgo, as some do.
func (s *surroundings) choose(name string, d driver) error {
	if name == "" {
		return nil
	}
	s.set("ENDSTATE_TEST_DRIVER", name)
	s.set("CGO_ENABLED", "1")
	if d.file == "" {
		return nil
	}
	root, err := os.Getwd()
	if err != nil {
		return err
	}
	overlay, err := json.Marshal(map[string]map[string]string{
		"Replace": {filepath.Join(root, "internal/dbtest", d.place): filepath.Join(root, d.file)},
	})
	if err != nil {
		return err
	}
	s.overlay = filepath.Join(s.dir, "overlay.json")
	return os.WriteFile(s.overlay, overlay, 0o600)
}
