package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"

	"github.com/spf13/cobra"

	"github.com/endstate-go/endstate/outbox"
	"github.com/endstate-go/endstate/outbox/audit"
)

// The messages that package finalize logs: of calls that won or came late, and of all calls.
const (
	ownCompletions = `^(finalized|already final)$`
	ownStarts      = `^(finalized|already final|not ready|not finalized)$`
)

// newAuditLogs is the command that counts repeated finalizations in logs.
func newAuditLogs(a *app) *cobra.Command {
	var cfg logConfig
	var table audit.Config
	var message, starts, pattern, part string
	cmd := &cobra.Command{
		Use:   "logs FILE… | -",
		Short: "Count the finalizations in logs, and which aggregates have several",
		Long: `Count the finalizations in logs, and which aggregates have several. - is standard input.

Lines are JSON as slog, zap, zerolog, structlog and logrus write it, also indented, or logfmt (slog's text handler); the fields
are found by themselves, or named by flags (a.b is field b in a). With --pattern they are text. Around them may be what Docker's
json-file, Kubernetes' CRI or journald (journalctl -o export, -o json) write. Files may be compressed by gzip, bzip2, xz or
zstd. What can't be read is counted and the first of it shown.

Memory is bounded: lines up to 1 MiB are looked at, of ids longer than 256 bytes a hash is kept, and aggregates take 256 MiB in
all, some 400,000. Beyond these the rest isn't counted and the exit status is 2; --part 1/4, 2/4 and so on then look at a fourth
of the aggregates each.

The library logs finalizations at debug level: have the service's logger write that level, or name lines of your own by --message.

With --db ($ENDSTATE_DB isn't used here) the duplicates of an outbox table are held against what the logs say: an aggregate that is repeated in the logs and
not in the table shows that a guard worked.

Exit status: 0 no aggregate is repeated, 1 some are, 2 could not run to its end, or found no finalization at all.`,
		Example: `  endstate audit logs app.log app.log.1.gz
  kubectl logs deploy/app | endstate audit logs - --message '^Dual event publishing completed' --key batch_id
  endstate audit logs app.txt --message completed --pattern 'batch=(?P<key>\S+) trigger=(?P<trigger>\S+)'`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, files []string) error {
			var err error
			if cfg.message, err = newMatcher("message", message); err != nil {
				return err
			}
			if !cmd.Flags().Changed("start") && cmd.Flags().Changed("message") {
				starts = ""
			}
			if cfg.start, err = newMatcher("start", starts); err != nil {
				return err
			}
			if pattern != "" {
				if cfg.pattern, err = regexp.Compile(pattern); err != nil {
					return fmt.Errorf("--pattern: %w", err)
				}
				if cfg.pattern.SubexpIndex("key") < 0 {
					return errors.New(`--pattern has no group "key", such as in (?P<key>\S+)`)
				}
			}
			cfg.named = cmd.Flags().Changed("message")
			if part != "" {
				if n, err := fmt.Sscanf(part, "%d/%d", &cfg.part, &cfg.parts); n != 2 || err != nil || cfg.part < 1 || cfg.part > cfg.parts || fmt.Sprintf("%d/%d", cfg.part, cfg.parts) != part {
					return fmt.Errorf("--part is %q; write 1/4, 2/4 and so on", part)
				}
			}
			if cmd.Flags().Changed("db") {
				return a.auditLogs(cmd, cfg, files, &table)
			}
			return a.auditLogs(cmd, cfg, files, nil)
		},
	}
	tableFlags(cmd, &table, outbox.DefaultTable)
	flags := cmd.Flags()
	flags.StringVar(&message, "message", ownCompletions, "count lines whose message matches this `REGEX`; default: what the library's own logger writes")
	flags.StringVar(&starts, "start", ownStarts, "count lines whose message matches this `REGEX` as starts of a finalization; '' for none")
	flags.StringVar(&pattern, "pattern", "", "the lines are text: `REGEX` with a group (?P<key>…), and optionally (?P<trigger>…) and (?P<time>…); --message is then looked for in the whole line")
	flags.StringVar(&cfg.key, "key", "", "the `FIELD` of the aggregate's id; default: the first of "+strings.Join(fieldNames[keyField], ", "))
	flags.StringVar(&cfg.messageKey, "message-key", "", "the `FIELD` of the message; default: the first of "+strings.Join(fieldNames[messageField], ", "))
	flags.StringVar(&cfg.triggerKey, "trigger-key", "", "the `FIELD` of the trigger's name; default: the first of "+strings.Join(fieldNames[triggerField], ", "))
	flags.StringVar(&cfg.timeKey, "time-key", "", "the `FIELD` of the time; default: the first of "+strings.Join(fieldNames[timeField], ", "))
	flags.StringVar(&part, "part", "", "look at part `I/N` of the aggregates only, where all of them don't fit into memory")
	flags.IntVar(&cfg.top, "top", 10, "show the worst `N` aggregates")
	return cmd
}

func (a *app) auditLogs(cmd *cobra.Command, cfg logConfig, files []string, table *audit.Config) error {
	ctx := cmd.Context()
	progress := a.progress()
	scan := newLogScan(cfg)
	var errs []error // what comes of the other files is still shown
	for _, name := range files {
		progress.busy("reading " + name)
		err := a.scanFile(ctx, scan, name)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", name, err))
		}
	}
	if scan.Lines == 0 && len(errs) > 0 {
		return errors.Join(errs...)
	}
	report := scan.report()
	for _, err := range errs {
		report.Unread = append(report.Unread, err.Error())
	}
	if table != nil {
		progress.busy("looking at the outbox")
		outbox, err := a.holdAgainst(cmd, *table, scan)
		if err != nil {
			return err
		}
		report.Outbox = outbox
	}
	if err := a.print(report, report.text); err != nil {
		return err
	}
	if err := scan.incomplete(); err != nil {
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if report.Repeated > 0 || report.Outbox != nil && report.Outbox.Duplicated > 0 {
		return errFound
	}
	return nil
}

// maxLine is the longest line that is looked at.
const maxLine = 1 << 20

func (a *app) scanFile(ctx context.Context, scan *logScan, name string) error {
	in := a.stdin
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return errors.Unwrap(err) // the caller names the file
		}
		defer f.Close()
		in = f
	}
	lines, done, err := decompress(bufio.NewReaderSize(untilDone{ctx, in}, maxLine))
	if err != nil {
		return err
	}
	defer done()
	scan.begin(name)
	defer scan.end()
	return scan.read(bufio.NewReaderSize(untilDone{ctx, lines}, maxLine))
}

// untilDone reads until the context ends.
type untilDone struct {
	ctx context.Context
	io.Reader
}

func (r untilDone) Read(p []byte) (int, error) {
	if r.ctx.Err() != nil {
		return 0, context.Cause(r.ctx)
	}
	return r.Reader.Read(p)
}
