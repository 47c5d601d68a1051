package main

import (
	"encoding/csv"
	"io"
	"slices"
	"strings"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"
)

// The output formats. json is one value, an array for a list; jsonl is one
// object a line; yaml has the shape of json; csv is flat, with a header.
const (
	formatTable = "table"
	formatJSON  = "json"
	formatJSONL = "jsonl"
	formatYAML  = "yaml"
	formatCSV   = "csv"
)

var formats = []string{formatTable, formatJSON, formatJSONL, formatYAML, formatCSV}

// column is one column of a table and of the CSV.
type column[T any] struct {
	// name heads the CSV; empty leaves the column out of it. Names are never
	// changed, and new ones come last.
	name string
	// head heads the table; empty leaves the column out of tables.
	head string
	// text is the value in a table, and in the CSV unless csv says otherwise.
	text func(T) string
	csv  func(T) string
	// number columns are aligned to the right and are no texts in the CSV.
	number bool
	// flex is the least width to which the column can be cut; 0: never.
	flex int
	// spare columns go when the terminal is narrow, the highest first; 0 stays.
	spare int
	paint func(T) paint
}

// printer writes the items of a list in the format asked for, as they come;
// a table when all are there.
type printer[T any] struct {
	c       *cli
	columns []column[T]
	tree    func(T) object
	rows    []T
	n       int
	csv     *csv.Writer
	buf     []byte
}

func newPrinter[T any](c *cli, tree func(T) object, columns []column[T]) *printer[T] {
	if c.output == formatCSV {
		columns = slices.DeleteFunc(slices.Clone(columns), func(col column[T]) bool { return col.name == "" })
	}
	return &printer[T]{c: c, columns: columns, tree: tree}
}

// add takes the next item.
func (p *printer[T]) add(item T) error {
	p.n++
	p.buf = p.buf[:0]
	switch p.c.output {
	case formatTable:
		p.rows = append(p.rows, item)
		return nil
	case formatCSV:
		return p.record(item)
	case formatJSON:
		p.buf = append(p.buf, ",\n  "...)
		if p.n == 1 {
			p.buf = append(p.buf[:0], "[\n  "...)
		}
		p.buf = appendJSON(p.buf, p.tree(item), "  ", "  ")
	case formatJSONL:
		p.buf = append(appendJSON(p.buf, p.tree(item), "", ""), '\n')
	case formatYAML:
		p.buf = append(appendYAML(p.buf, []any{p.tree(item)}, ""), '\n')
	}
	return p.write(p.buf)
}

// close writes what belongs after the last item.
func (p *printer[T]) close() error {
	switch {
	case p.c.output == formatTable:
		if len(p.rows) == 0 {
			return nil
		}
		return p.write([]byte(renderTable(p.c, p.columns, p.rows) + "\n"))
	case p.c.output == formatCSV && p.n == 0:
		return p.header()
	case p.c.output == formatJSON && p.n == 0, p.c.output == formatYAML && p.n == 0:
		return p.write([]byte("[]\n"))
	case p.c.output == formatJSON:
		return p.write([]byte("\n]\n"))
	}
	return nil
}

func (p *printer[T]) write(b []byte) error {
	p.c.mu.Lock()
	defer p.c.mu.Unlock()
	_, err := p.c.out.Write(b)
	return err
}

func (p *printer[T]) header() error {
	if p.csv == nil {
		p.csv = csv.NewWriter(writerFunc(func(b []byte) (int, error) { return len(b), p.write(b) }))
	}
	var names []string
	for _, col := range p.columns {
		names = append(names, col.name)
	}
	return p.line(names)
}

func (p *printer[T]) record(item T) error {
	if p.csv == nil {
		if err := p.header(); err != nil {
			return err
		}
	}
	row := make([]string, len(p.columns))
	for i, col := range p.columns {
		value := col.text
		if col.csv != nil {
			value = col.csv
		}
		if row[i] = value(item); !col.number {
			row[i] = cell(row[i])
		}
	}
	return p.line(row)
}

func (p *printer[T]) line(fields []string) error {
	if err := p.csv.Write(fields); err != nil {
		return err
	}
	p.csv.Flush()
	return p.csv.Error()
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

var _ io.Writer = writerFunc(nil)

// printOne writes one thing: card shows it in the table format.
func printOne[T any](c *cli, item T, tree func(T) object, columns []column[T], card func()) error {
	p := newPrinter(c, tree, columns)
	switch c.output {
	case formatTable:
		card()
		return nil
	case formatJSON:
		return p.write(append(appendJSON(nil, tree(item), "  ", ""), '\n'))
	case formatYAML:
		return p.write(append(appendYAML(nil, tree(item), ""), '\n'))
	default:
		return p.add(item)
	}
}

// lightStyle is a header with a line under it, and nothing else.
var lightStyle = func() table.Style {
	s := table.StyleLight
	s.Name = "nightshift"
	s.Box.PaddingLeft, s.Box.PaddingRight = "", "  "
	s.Options = table.Options{SeparateHeader: true}
	s.Format.Header = text.FormatDefault
	return s
}()

// renderTable lays the rows out. On a terminal that is too narrow, the widest
// flexible columns are cut, spare ones before others, and spare ones are left
// out when that is not enough.
func renderTable[T any](c *cli, columns []column[T], rows []T) string {
	columns = slices.DeleteFunc(slices.Clone(columns), func(col column[T]) bool { return col.head == "" })
	cells := make([][]string, len(rows))
	widths := make([]int, len(columns))
	for i, col := range columns {
		widths[i] = text.StringWidth(col.head)
	}
	for r, row := range rows {
		cells[r] = make([]string, len(columns))
		for i, col := range columns {
			cells[r][i] = clean(col.text(row))
			widths[i] = max(widths[i], text.StringWidth(cells[r][i]))
		}
	}
	hidden := make([]bool, len(columns))
	if c.outTTY {
		width, _ := c.size()
		fit(columns, widths, hidden, width)
	}

	t := table.NewWriter()
	t.SetStyle(lightStyle)
	var (
		header  table.Row
		configs []table.ColumnConfig
	)
	on := c.colored(c.outTTY)
	for i, col := range columns {
		align := text.AlignLeft
		if col.number {
			align = text.AlignRight
		}
		header = append(header, dye(on, bold, col.head))
		configs = append(configs, table.ColumnConfig{Number: i + 1, Align: align, AlignHeader: align, Hidden: hidden[i]})
	}
	t.AppendHeader(header)
	t.SetColumnConfigs(configs)
	for r, row := range rows {
		out := make(table.Row, len(columns))
		for i, col := range columns {
			s := clip(cells[r][i], widths[i])
			if col.paint != nil {
				s = dye(on, col.paint(row), s)
			}
			out[i] = s
		}
		t.AppendRow(out)
	}
	lines := strings.Split(t.Render(), "\n")
	for i := range lines {
		lines[i] = strings.TrimRight(lines[i], " ")
	}
	lines[1] = strings.TrimSuffix(lines[1], "──") // the space beside the last column
	return strings.Join(lines, "\n")
}

// fit makes the columns fit a width.
func fit[T any](columns []column[T], widths []int, hidden []bool, width int) {
	total := func(width func(i int) int) int {
		sum := -2 // nothing is beside the last one
		for i := range columns {
			if !hidden[i] {
				sum += width(i) + 2
			}
		}
		return sum
	}
	full := func(i int) int { return widths[i] }
	least := func(i int) int {
		if columns[i].flex > 0 {
			return min(widths[i], columns[i].flex)
		}
		return widths[i]
	}
	for total(least) > width {
		next := -1
		for i, col := range columns {
			if !hidden[i] && col.spare > 0 && (next < 0 || col.spare >= columns[next].spare) {
				next = i
			}
		}
		if next < 0 {
			break
		}
		hidden[next] = true
	}
	for total(full) > width {
		widest := -1
		for i, col := range columns {
			if !hidden[i] && least(i) < widths[i] && (widest < 0 || col.spare > columns[widest].spare ||
				col.spare == columns[widest].spare && widths[i] > widths[widest]) {
				widest = i
			}
		}
		if widest < 0 {
			return
		}
		widths[widest]--
	}
}

// fact is a line of a card.
type fact struct {
	name, text string
	paint      paint
}

// card shows one thing as lines of name and text; empty ones are left out.
func (c *cli) card(title string, facts ...fact) {
	if title != "" {
		c.print("%s\n", c.outPaint(bold, clean(title)))
	}
	width := 0
	for _, f := range facts {
		if f.text != "" {
			width = max(width, text.StringWidth(f.name))
		}
	}
	for _, f := range facts {
		if f.text == "" {
			continue
		}
		body := strings.TrimLeft(wrap(f.text, strings.Repeat(" ", width+4), c.width()), " ")
		c.print("  %s  %s\n", c.outPaint(faint, text.Pad(clean(f.name), width, ' ')), c.outPaint(f.paint, body))
	}
}

// width is how wide prose on stdout may be.
func (c *cli) width() int {
	if !c.outTTY {
		return 100
	}
	w, _ := c.size()
	return min(w, 120)
}
