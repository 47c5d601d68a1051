package main

import (
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/jedib0t/go-pretty/v6/text"
	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"

	scanv1 "nightshift.dev/gen/nightshift/scan/v1"
)

// progress shows on stderr how far scopes have come: on a terminal a line for
// each account and region and a bar for all, elsewhere a line now and then.
type progress struct {
	c     *cli
	start time.Time
	bars  *mpb.Progress // nil where there is no terminal
	total *mpb.Bar
	keep  bool // lines of scopes that have ended stay

	mu     sync.Mutex
	scopes map[string]*scopeLine
	sum    scanv1.Progress // of all scopes
	meter  scanv1.Meter
	ended  int
	want   int
	last   time.Time // of the last plain line
	what   string    // what the run waits for, while it does

	scanning bool // at least one scope looks at resources
}

// scopeLine is one account and region.
type scopeLine struct {
	service, account, region string
	progress                 *scanv1.Progress
	bar                      *mpb.Bar
	end                      string // how it ended; empty while it is at work
	paint                    paint
	note                     string
}

// plainEvery is how often a line is written where there is no terminal.
const plainEvery = 5 * time.Second

var frames = []string{"⠋", "⠙", "⠹", "⠸", "⠼", "⠴", "⠦", "⠧", "⠇", "⠏"}

// newProgress begins to show progress of so many scopes; 0 when that is not
// known yet. Close it.
func (c *cli) newProgress(scopes int) *progress {
	p := &progress{c: c, start: c.now(), last: c.now(), scopes: map[string]*scopeLine{}, want: scopes}
	if c.errTTY && c.env("TERM") != "dumb" {
		width, height := c.size()
		p.keep = scopes <= height-6
		p.bars = mpb.New(mpb.WithOutput(c.err), mpb.WithWidth(width), mpb.WithAutoRefresh(), mpb.WithRefreshRate(100*time.Millisecond))
		c.mu.Lock()
		c.above = p.bars
		c.mu.Unlock()
		p.total = p.line(1<<20, func(int) string { return p.totalLine() })
	}
	return p
}

// line adds a line that text draws anew each time; lines are ordered by
// priority.
func (p *progress) line(priority int, text func(frame int) string) *mpb.Bar {
	frame := 0
	return p.bars.New(0, mpb.NopStyle(), mpb.BarPriority(priority), mpb.BarFillerTrim(),
		mpb.BarOptional(mpb.BarRemoveOnComplete(), !p.keep && priority < 1<<20),
		mpb.PrependDecorators(decor.Any(func(decor.Statistics) string {
			frame++
			p.mu.Lock()
			defer p.mu.Unlock()
			width, _ := p.c.size()
			return clip(text(frame), width-1)
		})))
}

// expect says how many scopes there are in all.
func (p *progress) expect(scopes int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.want == scopes {
		return
	}
	p.want = scopes
	if p.bars != nil {
		_, height := p.c.size()
		p.keep = scopes <= height-6
	}
}

// update says how far a scope has come.
func (p *progress) update(s *scanv1.Scope, now *scanv1.Progress) {
	p.mu.Lock()
	l, added := p.scope(s)
	p.advance(l, now)
	text, due := p.plain()
	priority := len(p.scopes)
	p.mu.Unlock()
	if added && p.bars != nil {
		l.bar = p.line(priority, func(frame int) string { return p.scopeText(l, frame) })
	}
	if due {
		p.c.say("%s", text)
	}
}

// done says how a scope ended: with "" for well.
func (p *progress) done(s *scanv1.Scope, now *scanv1.Progress, trouble, note string) {
	p.update(s, now)
	p.mu.Lock()
	l, _ := p.scope(s)
	first := l.end == ""
	if first {
		p.ended++
		l.end, l.paint, l.note = "✓", green, note
		if trouble != "" {
			l.end, l.paint = "!", yellow
			l.note = strings.TrimSuffix(trouble+": "+note, ": ")
		}
	}
	p.mu.Unlock()
	if first && l.bar != nil {
		l.bar.SetTotal(-1, true)
	}
}

// scope finds a scope's line, or adds it. The lock must be held.
func (p *progress) scope(s *scanv1.Scope) (l *scopeLine, added bool) {
	key := s.GetService() + "/" + s.GetAccount() + "/" + s.GetRegion()
	if l = p.scopes[key]; l == nil {
		l = &scopeLine{service: s.GetService(), account: s.GetAccount(), region: s.GetRegion(), progress: &scanv1.Progress{}}
		p.scopes[key] = l
		p.scanning = p.scanning || scans(l.service)
		return l, true
	}
	return l, false
}

// advance adds what a scope has come further to the sum. The lock must be held.
func (p *progress) advance(l *scopeLine, now *scanv1.Progress) {
	if now == nil {
		return
	}
	was := l.progress
	p.sum.Resources += now.GetResources() - was.GetResources()
	p.sum.Verdicts += now.GetVerdicts() - was.GetVerdicts()
	p.sum.Violations += now.GetViolations() - was.GetViolations()
	p.sum.MonthlyCost += now.GetMonthlyCost() - was.GetMonthlyCost()
	for k, v := range now.GetCounts() {
		if p.sum.Counts == nil {
			p.sum.Counts = map[string]int64{}
		}
		p.sum.Counts[k] += v - was.GetCounts()[k]
	}
	n, w := now.GetMeter(), was.GetMeter()
	p.meter.Calls += n.GetCalls() - w.GetCalls()
	p.meter.Retries += n.GetRetries() - w.GetRetries()
	p.meter.Throttles += n.GetThrottles() - w.GetThrottles()
	p.meter.BilledMetrics += n.GetBilledMetrics() - w.GetBilledMetrics()
	p.meter.BilledCost += n.GetBilledCost() - w.GetBilledCost()
	l.progress = now
}

// plain tells whether a plain line is due, and what it says. The lock must be
// held.
func (p *progress) plain() (string, bool) {
	if p.bars != nil || p.c.now().Sub(p.last) < plainEvery {
		return "", false
	}
	p.last = p.c.now()
	return p.summary(), true
}

// summary is the sum in a line. The lock must be held.
func (p *progress) summary() string {
	of := ""
	if p.want > 0 {
		of = "/" + count(int64(p.want))
	}
	parts := []string{fmt.Sprintf("%d%s scopes", p.ended, of)}
	if p.what != "" {
		parts = append(parts, p.what)
	}
	if counted := counts(&p.sum); counted != "" {
		parts = append(parts, counted)
	}
	if p.scanning || len(p.scopes) == 0 && p.what == "" {
		parts = append(parts, many(p.sum.Resources, "resource", "resources"), many(p.sum.Violations, "finding", "findings"),
			dollars(p.sum.MonthlyCost, p.sum.MonthlyCost)+" a month")
	}
	return strings.Join(append(parts, lasted(p.c.now().Sub(p.start))), " · ")
}

func (p *progress) totalLine() string {
	barWidth := 24
	if width, _ := p.c.size(); width < 100 {
		barWidth = 8
	}
	full := 0
	if p.want > 0 {
		full = min(barWidth*p.ended/p.want, barWidth)
	}
	return "  " + p.c.errPaint(green, strings.Repeat("━", full)) + p.c.errPaint(faint, strings.Repeat("─", barWidth-full)) + "  " + p.summary()
}

func (p *progress) scopeText(l *scopeLine, frame int) string {
	mark := p.c.errPaint(cyan, frames[frame%len(frames)])
	if l.end != "" {
		mark = p.c.errPaint(l.paint, l.end)
	}
	place := fmt.Sprintf("  %s %s  %s", mark, l.account, text.Pad(clean(l.region), 14, ' '))
	if l.account == "-" { // work that is not about accounts
		place = fmt.Sprintf("  %s %s", mark, text.Pad(clean(strings.Trim(l.region, "-")), 14, ' '))
	}
	s := place + " " + counts(l.progress)
	if scans(l.service) {
		findings := "findings"
		if l.progress.GetViolations() == 1 {
			findings = "finding " // as wide as the others
		}
		s = fmt.Sprintf("%s %7s resources %5s %s %12s", place, count(l.progress.GetResources()), count(l.progress.GetViolations()), findings,
			knownCost(l.service, l.progress))
	}
	if l.note != "" {
		s += "  " + p.c.errPaint(l.paint, clean(l.note))
	}
	return s
}

// close ends the display and leaves its last state.
func (p *progress) close() {
	if p.bars == nil {
		return
	}
	for _, l := range p.scopes {
		if l.bar != nil && !l.bar.Completed() {
			l.bar.Abort(!p.keep)
		}
	}
	p.total.SetTotal(-1, true)
	p.bars.Wait()
	p.c.mu.Lock()
	p.c.above = nil
	p.c.mu.Unlock()
}
