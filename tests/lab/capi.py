"""What Python's sqlite3 module does not offer, on the same SQLite library."""

import ctypes
import ctypes.util

_lib = ctypes.CDLL(ctypes.util.find_library("sqlite3"))
_lib.sqlite3_errmsg.restype = ctypes.c_char_p

READWRITE, CREATE, URI = 0x2, 0x4, 0x40


class Connection:
    """A connection by its handle."""

    def __init__(self, name, flags=READWRITE | CREATE | URI):
        self.db = ctypes.c_void_p()
        rc = _lib.sqlite3_open_v2(name.encode(), ctypes.byref(self.db), flags, None)
        self._check(rc)

    def _check(self, rc):
        if rc:
            raise RuntimeError(f"SQLite {rc}: {_lib.sqlite3_errmsg(self.db).decode()}")

    def execute(self, sql):
        self._check(_lib.sqlite3_exec(self.db, sql.encode(), None, None, None))

    def file_control(self, code, value):
        """A file control on the main database whose argument is an int."""
        place = ctypes.c_int(value)
        self._check(_lib.sqlite3_file_control(self.db, b"main", code, ctypes.byref(place)))
        return place.value

    def config(self, code, value):
        """A `sqlite3_db_config` whose arguments are an int and a place for one."""
        place = ctypes.c_int()
        call = _lib.sqlite3_db_config
        self._check(call(self.db, code, ctypes.c_int(value), ctypes.byref(place)))
        return place.value

    def close(self):
        self._check(_lib.sqlite3_close(self.db))
