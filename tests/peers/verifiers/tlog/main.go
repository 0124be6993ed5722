// A log of ours as Go's own sumdb/note and sumdb/tlog read it: DIRECTORY VKEY, and proofs of ours on standard input, one a line:
//
//	record INDEX HASH...     the entry is in the log of the checkpoint
//	tree SIZE HASH...        the log extends its first SIZE entries
//
// Every entry is proven out of the tiles; every proof of ours must be the one that sumdb/tlog makes. Both packages come from the Go
// tool itself: the test copies them beside this file.
package main

import (
	"bufio"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

func must[T any](value T, err error) T {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	return value
}

func check(err error) { must(0, err) }

// tiles are files: a tile of height 8 is named without that.
type tiles struct{ folder string }

func (tiles) Height() int { return 8 }

func (t tiles) ReadTiles(asked []tlog.Tile) ([][]byte, error) {
	var all [][]byte
	for _, one := range asked {
		data, err := os.ReadFile(filepath.Join(t.folder, strings.Replace(one.Path(), "tile/8/", "tile/", 1)))
		if err != nil {
			return nil, err
		}
		all = append(all, data)
	}
	return all, nil
}

func (tiles) SaveTiles([]tlog.Tile, [][]byte) {}

func main() {
	folder := os.Args[1]
	verifier := must(note.NewVerifier(os.Args[2]))
	opened := must(note.Open(must(os.ReadFile(filepath.Join(folder, "checkpoint"))), note.VerifierList(verifier)))
	lines := strings.Split(opened.Text, "\n")
	if lines[0] != verifier.Name() {
		check(fmt.Errorf("origin %q", lines[0]))
	}
	tree := tlog.Tree{N: must(strconv.ParseInt(lines[1], 10, 64)), Hash: must(tlog.ParseHash(lines[2]))}
	reader := tlog.TileHashReader(tree, tiles{folder})

	entries := int64(0)
	for bundle := int64(0); bundle*256 < tree.N; bundle++ {
		named := tlog.Tile{H: 8, L: -1, N: bundle, W: int(min(256, tree.N-bundle*256))}
		data := must(os.ReadFile(filepath.Join(folder, strings.Replace(named.Path(), "tile/8/data/", "tile/entries/", 1))))
		for len(data) > 1 {
			size := 2 + int(data[0])<<8 + int(data[1])
			hash := tlog.RecordHash(data[2:size])
			check(tlog.CheckRecord(must(tlog.ProveRecord(tree.N, entries, reader)), tree.N, tree.Hash, entries, hash))
			data, entries = data[size:], entries+1
		}
	}
	if entries != tree.N {
		check(fmt.Errorf("%d entries of %d", entries, tree.N))
	}

	proofs, input := 0, bufio.NewScanner(os.Stdin)
	for ; input.Scan(); proofs++ {
		words := strings.Fields(input.Text())
		at := must(strconv.ParseInt(words[1], 10, 64))
		var given []tlog.Hash
		for _, word := range words[2:] {
			given = append(given, tlog.Hash(must(hex.DecodeString(word))))
		}
		var made []tlog.Hash
		if words[0] == "record" {
			made = must(tlog.ProveRecord(tree.N, at, reader))
			leaf := must(reader.ReadHashes([]int64{tlog.StoredHashIndex(0, at)}))[0]
			check(tlog.CheckRecord(given, tree.N, tree.Hash, at, leaf))
		} else {
			made = must(tlog.ProveTree(tree.N, at, reader))
			check(tlog.CheckTree(given, tree.N, tree.Hash, at, must(tlog.TreeHash(at, reader))))
		}
		if !slices.Equal(given, made) {
			check(fmt.Errorf("another proof: %s", input.Text()))
		}
	}
	fmt.Printf("%d entries, %d proofs\n", entries, proofs)
}
