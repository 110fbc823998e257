package finalize_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/finalize"
)

// A receipt in JSON has names that last, and its digest in hexadecimal.
func TestReceiptAsJSON(t *testing.T) {
	t.Parallel()
	full := finalize.Receipt{
		Won: true, State: "COMPLETE", Provenance: true, Trigger: "sweep", At: time.Date(2026, 1, 2, 3, 4, 5, 6000, time.UTC),
		Token: uuid.MustParse("0190b5a0-0000-7000-8000-000000000001"), Digest: finalize.Digest{0xab, 31: 0x01}, Differs: true,
	}
	for text, receipt := range map[string]finalize.Receipt{
		`{"won":true,"state":"COMPLETE","provenance":true,"trigger":"sweep","at":"2026-01-02T03:04:05.000006Z","token":"0190b5a0-0000-7000-8000-000000000001","digest":"ab00000000000000000000000000000000000000000000000000000000000001","differs":true}`: full,
		`{"won":false,"state":"COMPLETE","provenance":false}`: {State: "COMPLETE"},
	} {
		got, err := json.Marshal(receipt)
		require.NoError(t, err)
		require.Equal(t, text, string(got))
		var back finalize.Receipt
		require.NoError(t, json.Unmarshal(got, &back))
		require.Equal(t, receipt, back)
	}
	for _, bad := range []string{`"ab"`, `"` + full.Digest.String() + `00"`, `"zz00000000000000000000000000000000000000000000000000000000000001"`} {
		require.Error(t, json.Unmarshal([]byte(`{"digest":`+bad+`}`), new(finalize.Receipt)))
	}
}
