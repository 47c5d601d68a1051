package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/timestamppb"

	reportv1 "nightshift.dev/gen/nightshift/report/v1"
)

// reportFormats are the formats by the names people give them.
var reportFormats = []string{"text", "json", "csv", "html", "ocsf"}

// reportEndings are the formats that the ending of a file stands for.
var reportEndings = map[string]string{
	".txt": "text", ".text": "text", ".json": "json", ".csv": "csv", ".html": "html", ".htm": "html", ".jsonl": "ocsf", ".ndjson": "ocsf",
}

func (c *cli) reportCommand() *cobra.Command {
	var (
		format, since, file string
		f                   findingFilter
	)
	cmd := &cobra.Command{
		Use: "report " + strings.Join(setNames(), "|"), Short: "Make a report: text, JSON, CSV, one HTML page, or OCSF",
		Long: `Makes a report of the open findings: totals, by account, region, rule and owner, what to do first, what changed, and how much could be
seen. It goes to stdout, or to a file whose ending says the format.

Exit code 6 says that the latest scans did not see everything; the report is whole and names what is missing.`,
		Example: `  nightshift report waste
  nightshift report waste --out waste.html
  nightshift report security --account 123456789012 --since 30d
  nightshift report security --format ocsf --out findings.jsonl
  nightshift report waste --format json | jq '.totals.money.high'`,
		Args: exactly(1, "what to report: "+strings.Join(setNames(), " or ")), ValidArgs: setNames(),
		RunE: func(cmd *cobra.Command, args []string) error {
			if !slices.Contains(setNames(), args[0]) {
				return usage("there is no report of %q; there are %s", args[0], strings.Join(setNames(), " and "))
			}
			req, err := c.reportRequest(format, since, file, &f)
			if err != nil {
				return err
			}
			return c.report(cmd.Context(), args[0], req, file)
		},
	}
	f.add(c, cmd, false)
	cmd.Flags().StringVar(&format, "format", "", "text, json, csv, html or ocsf (default: by the ending of --out, else text)")
	cmd.Flags().StringVar(&since, "since", "7d", "beginning of the trend: how long ago, such as 7d or 12h, or a time such as 2026-09-01")
	cmd.Flags().StringVar(&file, "out", "", "file to write; replaced only when the report is whole")
	complete(cmd, "format", reportFormats...)
	_ = cmd.MarkFlagFilename("out", "html", "csv", "json", "jsonl", "txt")
	return cmd
}

func (c *cli) reportRequest(format, since, file string, f *findingFilter) (*reportv1.CreateReportRequest, error) {
	if format == "" {
		format = "text"
		if ending := strings.ToLower(filepath.Ext(file)); ending != "" {
			if format = reportEndings[ending]; format == "" {
				return nil, usage("no report has the ending %s; say --format %s", ending, strings.Join(reportFormats, "|"))
			}
		}
	}
	n, ok := reportv1.Format_value["FORMAT_"+strings.ToUpper(format)]
	if !ok || n == 0 {
		return nil, usage("--format %q is not one of %s", format, strings.Join(reportFormats, ", "))
	}
	from, err := parseSince(since, c.now())
	if err != nil {
		return nil, err
	}
	filter, err := f.text()
	if err != nil {
		return nil, err
	}
	return &reportv1.CreateReportRequest{Format: reportv1.Format(n), SinceTime: timestamppb.New(from), Filter: filter}, nil
}

// parseSince reads a time that has passed: how long ago, with d for days of 24
// hours, or a day or time in UTC.
func parseSince(s string, now time.Time) (time.Time, error) {
	var at time.Time
	if days, ok := strings.CutSuffix(s, "d"); ok {
		if n, err := strconv.Atoi(days); err == nil && n > 0 && n <= 36500 {
			at = now.AddDate(0, 0, -n)
		}
	} else if d, err := time.ParseDuration(s); err == nil && d > 0 {
		at = now.Add(-d)
	} else {
		for _, layout := range []string{time.DateOnly, time.RFC3339, "2006-01-02T15:04", "2006-01-02 15:04"} {
			if t, err := time.Parse(layout, s); err == nil && t.Before(now) {
				at = t
			}
		}
	}
	if at.IsZero() {
		return at, usage("--since %q is neither how long ago, such as 7d or 12h, nor a time that has passed, such as 2026-09-01", s)
	}
	return at, nil
}

// report streams a report to stdout or into a file, which appears only when it
// is whole.
func (c *cli) report(ctx context.Context, service string, req *reportv1.CreateReportRequest, file string) (err error) {
	conn, err := c.dial(service)
	if err != nil {
		return err
	}
	stream, err := reportv1.NewReportServiceClient(conn).CreateReport(ctx, req)
	if err != nil {
		return err
	}
	out := c.out
	if file != "" {
		temp, err := os.CreateTemp(filepath.Dir(file), "."+filepath.Base(file)+".*")
		if err != nil {
			return err
		}
		defer func() {
			_ = temp.Close()
			_ = os.Remove(temp.Name()) // gone already when all went well
		}()
		out = temp
	}
	var meta *reportv1.Metadata
	for {
		r, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		if m := r.GetMetadata(); m != nil {
			meta = m
		}
		if _, err := out.Write(r.GetChunk()); err != nil {
			return err
		}
	}
	if temp, ok := out.(*os.File); ok && file != "" {
		// Readable like any file one makes, not only by its owner.
		if err := errors.Join(temp.Chmod(0o644), temp.Close()); err != nil {
			return err
		}
		if err := os.Rename(temp.Name(), file); err != nil {
			return err
		}
		line := fmt.Sprintf("%s: %s", file, many(meta.GetFindings(), "open finding", "open findings"))
		if service == "waste" {
			line += ", " + dollars(meta.GetMonthlyCostLow(), meta.GetMonthlyCostHigh()) + " a month"
		}
		c.say("%s", line)
	}
	if !meta.GetComplete() {
		return &exit{exitPartial, "the latest scans did not see everything; the report says what is missing"}
	}
	return nil
}
