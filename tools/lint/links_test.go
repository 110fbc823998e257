package main

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestLinksLeadSomewhere(t *testing.T) {
	lines, err := brokenLinks(folder(t, map[string]string{
		"README.md":    "[one](docs/one.md#part), [gone](docs/gone.md), [site](https://example.com), [here](#here)",
		"docs/one.md":  "[back](../README.md), ![chart](chart.svg)",
		"docs/two.txt": "[no](document)",
	}))
	require.NoError(t, err)
	require.Equal(t, []string{"README.md links to docs/gone.md, which isn't there", "docs/one.md links to chart.svg, which isn't there"}, lines)
}
