package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

	"github.com/endstate-go/endstate/internal/dbtest"
	"github.com/endstate-go/endstate/outbox"
	"github.com/endstate-go/endstate/outbox/outboxtest"
	"github.com/endstate-go/endstate/outbox/relay"
)

// readFixture reads a configuration, whose secrets' folders are there.
func readFixture(t *testing.T, text string) []*subscribed {
	t.Helper()
	secrets := t.TempDir()
	for _, name := range []string{"db", "redis", "partner"} {
		require.NoError(t, os.WriteFile(filepath.Join(secrets, name), []byte("redis://localhost\n"), 0o600))
	}
	text = strings.ReplaceAll(text, "/run/secrets/endstate", secrets)
	a := &app{}
	relay, _, err := newRoot(a).Find([]string{"relay"})
	require.NoError(t, err)
	subscriptions, err := a.readConfig(relay, writeConfig(t, text))
	require.NoError(t, err)
	return subscriptions
}

// The example has every field, each with what it is in a comment, and nothing that there isn't.
func TestTheExampleOfAConfigurationHasEveryField(t *testing.T) {
	t.Setenv("ENDSTATE_NATS", "nats://localhost")
	text, err := os.ReadFile("deploy/relay.yaml")
	require.NoError(t, err)
	require.Len(t, readFixture(t, string(text)), 4)
	cmd := &cobra.Command{}
	(&subscribed{}).flags(cmd)
	for _, name := range append(ofSubscription(cmd), ofProgram...) {
		require.Regexp(t, `(?m)^ *(- )?`+name+`: .* # .`, string(text))
	}
}

// The manifests are YAML, their configuration is one, the probes are what --http serves, and the container may do nothing.
func TestTheKubernetesManifests(t *testing.T) {
	text, err := os.ReadFile("deploy/kubernetes.yaml")
	require.NoError(t, err)
	kinds := map[string]map[string]any{}
	for decoder := yaml.NewDecoder(bytes.NewReader(text)); ; {
		var document map[string]any
		if err := decoder.Decode(&document); errors.Is(err, io.EOF) {
			break
		} else {
			require.NoError(t, err)
		}
		kinds[document["kind"].(string)] = document
	}
	config := kinds["ConfigMap"]["data"].(map[string]any)["relay.yaml"].(string)
	subscriptions := readFixture(t, config)
	require.Len(t, subscriptions, 1)
	var deployment struct {
		Spec struct {
			Template struct {
				Spec struct {
					Grace           int `yaml:"terminationGracePeriodSeconds"`
					SecurityContext struct {
						RunAsNonRoot bool `yaml:"runAsNonRoot"`
					} `yaml:"securityContext"`
					Containers []struct {
						Args     []string
						Liveness struct {
							HTTPGet struct{ Path string } `yaml:"httpGet"`
						} `yaml:"livenessProbe"`
						Readiness struct {
							HTTPGet struct{ Path string } `yaml:"httpGet"`
						} `yaml:"readinessProbe"`
					}
				}
			}
		}
	}
	for decoder := yaml.NewDecoder(bytes.NewReader(text)); decoder.Decode(&deployment) == nil; {
	}
	pod := deployment.Spec.Template.Spec
	require.Len(t, pod.Containers, 1)
	require.Equal(t, "/healthz", pod.Containers[0].Liveness.HTTPGet.Path)
	require.Equal(t, "/readyz", pod.Containers[0].Readiness.HTTPGet.Path)
	require.True(t, pod.SecurityContext.RunAsNonRoot)
	require.Greater(t, time.Duration(pod.Grace)*time.Second, subscriptions[0].cfg.ShutdownTimeout+endTimeout, "it ends by itself before it is killed")
	relay, rest, err := newRoot(&app{}).Find(pod.Containers[0].Args)
	require.NoError(t, err)
	require.Equal(t, "relay", relay.Name())
	require.NoError(t, relay.ParseFlags(rest))
}

// Every metric that the dashboard and the alerts name is one that /metrics serves.
func TestTheDashboardAndTheAlertsNameMetricsThatThereAre(t *testing.T) {
	m, err := newMetrics()
	require.NoError(t, err)
	db := dbtest.SQLite(t)
	putEvents(t, sqlitePath(t, db), db, event("7", "paid"))
	relayUntil(t, db, &outboxtest.Recorder{})
	admin, err := relay.NewAdminSQL(db, nil)
	require.NoError(t, err)
	stop, err := m.observe(admin)
	require.NoError(t, err)
	defer stop()
	hooks := m.telemetry.Relay("")
	ctx, failure := t.Context(), errors.New("refused")
	hooks.Tried(ctx, relay.Try{Destination: "kafka://localhost", Events: []outbox.Event{event("7", "paid")}}, nil, time.Second)
	hooks.Published(ctx, event("7", "paid"), time.Second)
	hooks.Failed(ctx, event("7", "paid"), 1, failure, time.Second)
	hooks.Dead(ctx, event("7", "paid"), 1, failure)
	hooks.Blocked(ctx, failure)
	hooks.Owns(ctx, 8)
	hooks.LeaseLost(ctx)
	hooks.Reconnecting(ctx, failure, time.Second)
	answer := httptest.NewRecorder()
	m.handler.ServeHTTP(answer, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	served := answer.Body.String()

	var expressions []string
	var rules struct {
		Groups []struct {
			Rules []struct {
				Alert, Expr string
				Annotations map[string]string
			}
		}
	}
	text, err := os.ReadFile("deploy/alerts.yaml")
	require.NoError(t, err)
	require.NoError(t, yaml.Unmarshal(text, &rules))
	root := newRoot(&app{})
	for _, group := range rules.Groups {
		for _, rule := range group.Rules {
			expressions = append(expressions, rule.Expr)
			summary := rule.Annotations["summary"]
			require.NotEmpty(t, summary, rule.Alert)
			if _, command, found := strings.Cut(summary, "(endstate "); found { // which is one that there is
				command, _, _ = strings.Cut(command, ")")
				words := strings.Fields(strings.TrimSuffix(command, " says why"))
				cmd, rest, err := root.Find(words)
				require.NoError(t, err, command)
				require.NoError(t, cmd.ParseFlags(rest), command)
				require.NoError(t, cmd.ValidateArgs(cmd.Flags().Args()), command)
			}
		}
	}
	var dashboard struct {
		Panels []struct{ Targets []struct{ Expr string } }
	}
	text, err = os.ReadFile("deploy/dashboard.json")
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(text, &dashboard))
	for _, panel := range dashboard.Panels {
		for _, target := range panel.Targets {
			expressions = append(expressions, target.Expr)
		}
	}
	require.Greater(t, len(expressions), 15)
	for _, expression := range expressions {
		names := regexp.MustCompile(`\b(endstate|messaging)_\w+`).FindAllString(expression, -1)
		require.NotEmpty(t, names, expression)
		for _, name := range names {
			label := strings.Contains(served, name+"=") && regexp.MustCompile(`by \([^)]*`+name).MatchString(expression)
			require.True(t, label || strings.Contains(served, "\n"+name+"{"), "%s of %s is nothing that /metrics serves", name, expression)
		}
	}
}
