#!/usr/bin/env python3
"""tap_unittest.py - runs one unittest module and reports in TAP, test by test, skips counted as skips

usage: tap_unittest.py MODULE      (beside this file)

SPDX-License-Identifier: Apache-2.0
"""
import os
import sys
import traceback
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(os.path.dirname(os.path.dirname(HERE)), 'lib', 'python')]


class Tap(unittest.TestResult):
    def __init__(self):
        super().__init__()
        self.count = 0

    def line(self, verdict, test, note='', detail=''):
        self.count += 1
        print(f'{verdict} {self.count} - {test.id().split(".", 1)[-1]}{note}', flush=True)
        for text in detail.strip().splitlines()[-40:]:
            print(f'# {text}', flush=True)

    def addSuccess(self, test):
        self.line('ok', test)

    def addSkip(self, test, reason):
        self.line('ok', test, f' # SKIP {reason}')

    def addFailure(self, test, err):
        super().addFailure(test, err)
        self.line('not ok', test, detail=''.join(traceback.format_exception(*err)))

    addError = addFailure

    def addSubTest(self, test, subtest, err):
        if err is not None:
            self.addFailure(subtest, err)


result = Tap()
unittest.defaultTestLoader.loadTestsFromName(sys.argv[1]).run(result)
print(f'1..{result.count}')
sys.exit(not result.wasSuccessful())
