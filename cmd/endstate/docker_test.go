package main

import (
	"encoding/json"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// instruction is a line of a Dockerfile.
type instruction struct{ name, args string }

// readDockerfile parts it into stages, each of which begins with its FROM.
func readDockerfile(t *testing.T) (stages [][]instruction) {
	t.Helper()
	text, err := os.ReadFile("deploy/Dockerfile")
	require.NoError(t, err)
	for line := range strings.SplitSeq(string(text), "\n") {
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		name, args, found := strings.Cut(line, " ")
		require.True(t, found, line)
		if name == "FROM" {
			stages = append(stages, nil)
		}
		require.NotEmpty(t, stages, line)
		stages[len(stages)-1] = append(stages[len(stages)-1], instruction{name, args})
	}
	return stages
}

// The image can't be built where there is no Docker; what it says can be checked: the compiler is no older than the modules want, the
// binary is static, as a base without a C library needs it, what is copied is what was built, the user is a number, which
// Kubernetes' runAsNonRoot asks for, and what is started is this command with the manifests' configuration.
func TestTheDockerfile(t *testing.T) {
	stages := readDockerfile(t)
	require.Len(t, stages, 2)
	build, image := stages[0], stages[1]
	args := func(stage []instruction, name string) string {
		t.Helper()
		at := slices.IndexFunc(stage, func(i instruction) bool { return i.name == name })
		require.GreaterOrEqual(t, at, 0, name)
		return stage[at].args
	}
	from := regexp.MustCompile(`^golang:(\d+\.\d+) AS build$`).FindStringSubmatch(args(build, "FROM"))
	require.NotNil(t, from)
	module, err := os.ReadFile("go.mod")
	require.NoError(t, err)
	require.Regexp(t, `(?m)^go `+regexp.QuoteMeta(from[1])+`(\.\d+)?$`, string(module))
	require.Equal(t, ". .", args(build, "COPY"), "go.work joins the modules, which are all needed")
	run := strings.Fields(args(build, "RUN"))
	require.Equal(t, []string{"CGO_ENABLED=0", "go", "build"}, run[:3])
	require.Contains(t, run, "-trimpath")
	require.Equal(t, "./cmd/endstate", run[len(run)-1])
	require.DirExists(t, "../../cmd/endstate", "from the repository's top folder")
	built := run[slices.Index(run, "-o")+1]

	require.Regexp(t, `^gcr\.io/distroless/static-debian\d+:nonroot$`, args(image, "FROM"))
	require.Equal(t, "--from=build "+built+" /endstate", args(image, "COPY"))
	require.Equal(t, "65532:65532", args(image, "USER"))
	var entry, command []string
	require.NoError(t, json.Unmarshal([]byte(args(image, "ENTRYPOINT")), &entry), "without a shell")
	require.NoError(t, json.Unmarshal([]byte(args(image, "CMD")), &command))
	require.Equal(t, []string{"/endstate"}, entry)
	relay, rest, err := newRoot(&app{}).Find(command)
	require.NoError(t, err)
	require.Equal(t, "relay", relay.Name())
	require.NoError(t, relay.ParseFlags(rest))

	manifests, err := os.ReadFile("deploy/kubernetes.yaml")
	require.NoError(t, err)
	require.Contains(t, string(manifests), "runAsUser: 65532")
	require.Contains(t, string(manifests), "containerPort: "+args(image, "EXPOSE"))
	config := relay.Flags().Lookup("config").Value.String()
	require.Contains(t, string(manifests), "mountPath: "+config[:strings.LastIndexByte(config, '/')])
}
