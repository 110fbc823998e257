package main

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"
)

// ofProgram are the flags that a configuration file has once, beside its subscriptions.
var ofProgram = []string{"db", "schema", "outbox", "http", "listen-url", "figures", "log-level"}

// readConfig reads a configuration file: its fields are the command's flags. What the command line says comes first.
func (a *app) readConfig(cmd *cobra.Command, path string) ([]*subscribed, error) {
	probe := &cobra.Command{}
	(&subscribed{}).flags(probe)
	for _, name := range ofSubscription(probe) {
		if cmd.Flags().Changed(name) {
			return nil, fmt.Errorf("--%s is one subscription's, and --config has several: write it into the file", name)
		}
	}
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("--config: %w", err)
	}
	return a.parseConfig(cmd, path, content)
}

// parseConfig reads what a configuration file has in it.
func (a *app) parseConfig(cmd *cobra.Command, path string, content []byte) ([]*subscribed, error) {
	fail := func(err error) error { return fmt.Errorf("--config %s: %w", path, err) }
	var document yaml.Node
	if err := yaml.Unmarshal(content, &document); err != nil {
		return nil, fail(errors.New(strings.TrimPrefix(err.Error(), "yaml: ")))
	}
	if len(document.Content) == 0 {
		return nil, fail(errors.New("it is empty; it needs subscriptions"))
	}
	f := &configFile{app: a}
	err := f.program(cmd, document.Content[0])
	a.secrets = newRedactor(append(slices.Clone(os.Args[1:]), f.values...)) // for what is wrong with the file, too
	if err != nil {
		return nil, fail(err)
	}
	return f.subscriptions, nil
}

// ofSubscription are the names of a subscription's flags.
func ofSubscription(cmd *cobra.Command) (names []string) {
	cmd.Flags().VisitAll(func(f *pflag.Flag) { names = append(names, f.Name) })
	return names
}

// configFile is a configuration file that is being read.
type configFile struct {
	*app
	values        []string // for the redactor
	subscriptions []*subscribed
}

func at(n *yaml.Node, format string, args ...any) error {
	return fmt.Errorf("line %d: %s", n.Line, fmt.Sprintf(format, args...))
}

// fields calls f for each field of a mapping, and refuses what isn't one, and those that are there twice.
func fields(n *yaml.Node, what string, f func(key, value *yaml.Node) error) error {
	if n.Kind != yaml.MappingNode {
		return at(n, "%s is no mapping of fields to values", what)
	}
	seen := map[string]int{}
	for i := 0; i < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		if before, twice := seen[key.Value]; twice {
			return at(key, "%q appears twice, first on line %d", key.Value, before)
		}
		seen[key.Value] = key.Line
		if value.Kind == yaml.AliasNode {
			value = value.Alias
		}
		if err := f(key, value); err != nil {
			return err
		}
	}
	return nil
}

// program reads the whole file.
func (f *configFile) program(cmd *cobra.Command, n *yaml.Node) error {
	err := fields(n, "the file", func(key, value *yaml.Node) error {
		if key.Value == "subscriptions" {
			if value.Kind != yaml.SequenceNode || len(value.Content) == 0 {
				return at(value, "subscriptions is no list of them")
			}
			for _, one := range value.Content {
				if err := f.subscription(one); err != nil {
					return err
				}
			}
			return nil
		}
		if !slices.Contains(ofProgram, key.Value) {
			return at(key, "there is no field %q; there are subscriptions, %s", key.Value, strings.Join(ofProgram, ", "))
		}
		if cmd.Flags().Changed(key.Value) {
			return nil
		}
		return f.set(cmd, key, value)
	})
	if err == nil && len(f.subscriptions) == 0 {
		err = at(n, "there are no subscriptions")
	}
	return err
}

// subscription reads one of them.
func (f *configFile) subscription(n *yaml.Node) error {
	s, cmd := &subscribed{line: n.Line}, &cobra.Command{}
	s.flags(cmd)
	names := ofSubscription(cmd)
	s.to.to = "" // the environment's is for one without a file
	err := fields(n, "a subscription", func(key, value *yaml.Node) error {
		if !slices.Contains(names, key.Value) {
			return at(key, "a subscription has no field %q; there are %s", key.Value, strings.Join(names, ", "))
		}
		return f.set(cmd, key, value)
	})
	switch {
	case err != nil:
		return err
	case s.to.to == "":
		return at(n, "a subscription has no to, which says where its events go")
	}
	for _, other := range f.subscriptions {
		if other.cfg.Subscription == s.cfg.Subscription {
			return at(n, "subscription %q appears twice, first on line %d", s.cfg.Subscription, other.line)
		}
	}
	f.subscriptions = append(f.subscriptions, s)
	return nil
}

// set gives a flag the value of a field: a scalar, for those that may be repeated a list of them.
func (f *configFile) set(cmd *cobra.Command, key, value *yaml.Node) error {
	flag := cmd.Flags().Lookup(key.Value)
	if flag == nil {
		flag = cmd.InheritedFlags().Lookup(key.Value)
	}
	all := []*yaml.Node{value}
	if value.Kind == yaml.SequenceNode {
		if flag.Value.Type() != "stringArray" {
			return at(value, "%s has one value, and no list of them", key.Value)
		}
		all = value.Content
	}
	for _, one := range all {
		text, err := f.text(key, one)
		if err != nil {
			return err
		}
		if flag.Value.Set(text) != nil { // whose text may have the value in it, a secret perhaps
			return at(one, "%s is not what it takes, which is a value such as %s", key.Value, flag.DefValue)
		}
	}
	return nil
}

// text is a scalar, or what {env: NAME} or {file: PATH} says.
func (f *configFile) text(key, value *yaml.Node) (text string, err error) {
	if value.Kind == yaml.ScalarNode {
		if value.Tag == "!!null" {
			return "", at(value, "%s has no value", key.Value)
		}
		f.values = append(f.values, value.Value)
		return value.Value, nil
	}
	err = fields(value, key.Value, func(from, where *yaml.Node) error {
		switch {
		case where.Kind != yaml.ScalarNode || len(value.Content) != 2:
		case from.Value == "env":
			var there bool
			if text, there = os.LookupEnv(where.Value); !there {
				return at(where, "%s: the environment has no %s", key.Value, where.Value)
			}
			return nil
		case from.Value == "file":
			content, err := os.ReadFile(where.Value)
			if err != nil {
				return at(where, "%s: %v", key.Value, err)
			}
			text = strings.TrimRight(string(content), "\r\n")
			return nil
		}
		return at(from, "%s is a value, {env: NAME} or {file: PATH}", key.Value)
	})
	if err == nil && text == "" {
		err = at(value, "%s is a value, {env: NAME} or {file: PATH}, and not empty", key.Value)
	}
	f.values = append(f.values, text)
	return text, err
}
