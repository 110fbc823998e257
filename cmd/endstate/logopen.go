package main

import (
	"bufio"
	"bytes"
	"compress/bzip2"
	"compress/gzip"
	"errors"
	"io"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// maxWindow is how much of what was read before a compressed log may refer to, which is how much memory it takes: as much as
// the programs zstd and xz take by themselves.
const maxWindow = 128 << 20

// decompress looks at how a log begins and takes its compression away, if it is one of those that are known. The caller calls
// done in the end.
func decompress(in *bufio.Reader) (plain io.Reader, done func(), err error) {
	begins, _ := in.Peek(32)
	is := func(magic string) bool { return bytes.HasPrefix(begins, []byte(magic)) }
	done = func() {}
	switch {
	case is("\x1f\x8b"):
		plain, err = gzip.NewReader(in)
	case is("BZh"):
		plain = bzip2.NewReader(in)
	case is("\xfd7zXZ\x00"):
		if xzWindow(begins) > maxWindow {
			return nil, nil, errors.New("compressed by xz with a dictionary of more than 128 MiB: pipe it through xz -dc")
		}
		plain, err = xz.NewReader(in)
	case is("\x28\xb5\x2f\xfd"), len(begins) > 4 && begins[0]&0xf0 == 0x50 && string(begins[1:4]) == "\x2a\x4d\x18": // a frame, or one to skip
		var d *zstd.Decoder
		d, err = zstd.NewReader(in, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(maxWindow))
		if err == nil {
			plain, done = d, d.Close
		}
	case is("PK\x03\x04"), is("\x04\x22\x4d\x18"), is("7z\xbc\xaf\x27\x1c"), is("\x1f\x9d"):
		return nil, nil, errors.New("an archive, or a compression, that isn't read here (gzip, bzip2, xz and zstd are): unpack it, and pipe it in as -")
	default:
		plain = in
	}
	return plain, done, err
}

// xzWindow is the size of the dictionary that the first block of an xz stream asks for, 0 if its header isn't as xz writes it.
func xzWindow(begins []byte) uint64 {
	const header = 12 // the stream's
	if len(begins) < header+5 || begins[header+1]&0xc0 != 0 || begins[header+2] != 0x21 {
		return 0
	}
	bits := begins[header+4] & 0x3f
	if bits >= 40 {
		return 1<<32 - 1
	}
	return uint64(2|bits&1) << (bits/2 + 11)
}
