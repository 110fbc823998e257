package main

import (
	"fmt"
	"io"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// newVersion is the command that tells which build this is.
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
			}{Version: "(devel)"}
			if info, ok := debug.ReadBuildInfo(); ok {
				version.Version, version.Go = info.Main.Version, info.GoVersion
				for _, s := range info.Settings {
					if s.Key == "vcs.revision" {
						version.Revision = s.Value
					}
				}
			}
			return a.print(version, func(w io.Writer) {
				fmt.Fprintf(w, "endstate %s (%s)\n", version.Version, version.Go)
			})
		},
	}
}
