package main

import (
	"fmt"
	"io"
	"io/fs"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"

	"github.com/endstate-go/endstate/migrations"
)

// newVersion is the command that prints which build this is, and which version of the tables it makes.
func newVersion(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print which build this is",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			version := struct {
				Version  string `json:"version"`
				Go       string `json:"go"`
				Revision string `json:"revision,omitempty"`
				Schema   string `json:"schema"`
			}{Version: "(devel)"}
			if info, ok := debug.ReadBuildInfo(); ok {
				version.Version, version.Go = info.Main.Version, info.GoVersion
				for _, s := range info.Settings {
					if s.Key == "vcs.revision" {
						version.Revision = s.Value
					}
				}
			}
			schema, err := newestSchema()
			if err != nil {
				return err
			}
			version.Schema = schema
			return a.print(version, func(w io.Writer) {
				fmt.Fprintf(w, "endstate %s (%s), schema %s\n", version.Version, version.Go, version.Schema)
			})
		},
	}
}

// newestSchema is the version of the newest migration.
func newestSchema() (string, error) {
	folder, err := migrations.FS(migrations.Goose, "postgres")
	if err != nil {
		return "", err
	}
	files, err := fs.ReadDir(folder, ".")
	if err != nil || len(files) == 0 {
		return "", err
	}
	version, _, _ := strings.Cut(files[len(files)-1].Name(), "_")
	return version, nil
}
