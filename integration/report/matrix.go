// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
)

// matrixTest is the test whose subtests are cells: TestMatrix/MODE/COLUMN/FAMILY/PROTOCOL. What holds for all cells of a
// column or of a mode ends at that name.
const matrixTest = "TestMatrix"

// matrix is what the runs of all lanes say of the cells.
type matrix struct {
	modes, columns, packets []string // in order of appearance; packets are FAMILY/PROTOCOL
	results                 map[string]result
	notes                   []string // why cells were not tested
}

// table prints the matrix of what save has saved. One without a cell is an error.
func table(out io.Writer, file string) error {
	all, err := load(file)
	if err != nil {
		return err
	}
	m := readMatrix(all)
	if len(m.packets) == 0 {
		return fmt.Errorf("no cell of %s ran", matrixTest)
	}
	return m.print(out)
}

// readMatrix takes the best knowledge of each cell: one that failed anywhere has failed, one that was skipped here may have
// passed on another kernel, and of two reasons to skip it the later kernel's counts.
func readMatrix(all results) matrix {
	m := matrix{results: map[string]result{}}
	order := []string{"skip", "pass", "fail"}
	for _, r := range all {
		name, ok := strings.CutPrefix(r.Test, matrixTest+"/")
		if !ok {
			continue
		}
		parts := strings.SplitN(name, "/", 4)
		m.modes = adding(m.modes, parts[0])
		if len(parts) > 1 {
			m.columns = adding(m.columns, parts[1])
		}
		if len(parts) == 4 && strings.HasPrefix(parts[2], "IPv") {
			m.packets = adding(m.packets, parts[2]+"/"+parts[3])
		}
		if old, ok := m.results[name]; !ok || slices.Index(order, r.Action) >= slices.Index(order, old.Action) {
			m.results[name] = r
		}
	}
	return m
}

func adding(list []string, word string) []string {
	if slices.Contains(list, word) {
		return list
	}
	return append(list, word)
}

// print writes one line for each mode and kind of packet, and below the table why cells are empty.
func (m *matrix) print(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "mode\tpackets\t%s\n", strings.ReplaceAll(strings.Join(m.columns, "\t"), "_", " "))
	for _, mode := range m.modes {
		for _, packets := range m.packets {
			cells := []string{strings.ReplaceAll(mode, "_", " "), strings.ReplaceAll(packets, "/", " ")}
			for _, column := range m.columns {
				cells = append(cells, m.cell(mode, column, packets))
			}
			fmt.Fprintln(w, strings.Join(cells, "\t"))
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for i, note := range m.notes {
		fmt.Fprintf(out, "(%d) %s\n", i+1, note)
	}
	return nil
}

// cell says what is known of one: of itself, else of its column, else of its mode, which may pass without it.
func (m *matrix) cell(mode, column, packets string) string {
	for _, name := range []string{mode + "/" + column + "/" + packets, mode + "/" + column, mode} {
		r, ok := m.results[name]
		if !ok || name == mode && r.Action == "pass" {
			continue
		}
		if r.Action != "skip" {
			return map[string]string{"pass": "ok", "fail": "FAIL"}[r.Action]
		}
		m.notes = adding(m.notes, reason(r.Output))
		return fmt.Sprintf("(%d)", 1+slices.Index(m.notes, reason(r.Output)))
	}
	return "not run"
}
